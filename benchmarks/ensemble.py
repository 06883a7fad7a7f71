"""What thousands of small networks cost: steps of gradient descent, Hessians, spectra.

    python benchmarks/ensemble.py [--num 5000] [--threads 2] [--repeat 3] [--json FILE]

The networks are 2-6-6-2 relu classifiers of 74 parameters on N = 200 points of two Gaussian
clouds, in float64 (Sagun, Bottou and LeCun 2016, figures 4, 8 and 9). `torch.vmap` does the same
to the first networks alone, in its best chunk; it and hesscope alternate within a round, and the
ratio, per network, is the median over rounds. Processor seconds count all threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import functional_call, grad, hessian, vmap

from hesscope import ensemble

LAYERS, N, STEPS = (2, 6, 6, 2), 200, 10
TARGETS = {"one step": 0.060, "Hessians": 2.0, "spectra": 4.0}  # seconds for 5,000 on 2 cores
VMAP = {"one step": (1000, 1000), "Hessians": (100, 25), "spectra": (100, 25)}  # networks, chunk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the median is shown")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start = ensemble.initialise(LAYERS, arguments.num, seed=0)
    inputs, labels = clouds()
    rows = [
        measure(name, start, inputs, labels, arguments.repeat)
        for name in ours(start, inputs, labels)
    ]
    Console(width=130).print(table(rows, arguments))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({**vars(arguments), "rows": rows}, indent=1))


def clouds() -> tuple[Tensor, Tensor]:
    """Points around (1, 1) and (-1, -1) with standard deviation 1/2, and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(N) % 2
    noise = 0.5 * torch.randn(N, 2, generator=generator, dtype=torch.float64)
    return noise + (1 - 2 * labels[:, None]), labels


def ours(e: ensemble.Ensemble, inputs: Tensor, labels: Tensor) -> dict[str, Callable[[], Any]]:
    return {
        "one step": lambda: ensemble.train(e, inputs, labels, lr=0.1, steps=STEPS - 1),
        "Hessians": lambda: ensemble.hessians(e, inputs, labels),
        "spectra": lambda: ensemble.spectra(e, inputs, labels),
    }


def by_vmap(name: str, e: ensemble.Ensemble, inputs: Tensor, labels: Tensor) -> Callable[[], Any]:
    """The same by torch.func on the module of one network."""
    model = e.member(0)
    shapes = {key: p.shape for key, p in model.named_parameters()}

    def loss(theta: Tensor) -> Tensor:
        pieces = theta.split([shape.numel() for shape in shapes.values()])
        named = {key: p.view(shapes[key]) for key, p in zip(shapes, pieces, strict=True)}
        return torch.nn.functional.cross_entropy(functional_call(model, named, (inputs,)), labels)

    num, chunk = VMAP[name]
    if name == "one step":
        slope = vmap(grad(loss), chunk_size=chunk)
        return lambda: e.theta[:num] - 0.1 * slope(e.theta[:num])
    curvature = vmap(hessian(loss), chunk_size=chunk)
    if name == "spectra":
        return lambda: torch.linalg.eigvalsh(curvature(e.theta[:num]))
    return lambda: curvature(e.theta[:num])


def measure(
    name: str, e: ensemble.Ensemble, inputs: Tensor, labels: Tensor, repeat: int
) -> dict[str, Any]:
    """Seconds for all networks, and how often slower vmap is for one."""
    job, other = ours(e, inputs, labels)[name], by_vmap(name, e, inputs, labels)
    steps, num = STEPS if name == "one step" else 1, min(VMAP[name][0], len(e))
    other()
    found = []
    for _ in range(repeat):
        wall, processor = seconds(job)
        other_wall, other_processor = seconds(other)
        found.append(
            {
                "wall": wall / steps,
                "processor": processor / steps,
                "vmap wall": other_wall / num * len(e),
                "ratio": other_processor / num * len(e) / (processor / steps),
            }
        )
    median = {key: statistics.median(f[key] for f in found) for key in found[0]}
    return {"name": name, "num": len(e), "target": TARGETS[name] * len(e) / 5000, **median}


def seconds(job: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - processor


def table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> Table:
    title = f"{arguments.num} networks 2-6-6-2, N = {N}, float64, {arguments.threads} threads"
    caption = "seconds for all networks; spectra include their Hessians; ratio of processor time"
    out = Table(title=title, caption=caption)
    for name in (
        "",
        "wall",
        "processor",
        "target (wall)",
        "vmap, wall, from a part",
        "vmap / this",
    ):
        out.add_column(name, justify="right" if name else "left")
    for row in rows:
        verdict = "met" if row["wall"] <= row["target"] else "missed"
        out.add_row(
            row["name"],
            f"{row['wall']:.3f}",
            f"{row['processor']:.3f}",
            f"{row['target']:.3f} {verdict}",
            f"{row['vmap wall']:.3f}",
            f"{row['ratio']:.1f}",
        )
    return out


if __name__ == "__main__":
    main()

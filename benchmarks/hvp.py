"""What one Hessian-vector product costs, in gradients.

    python benchmarks/hvp.py [--threads 2] [--repeat 15] [--only mlp] [--engines kept] [--json FILE]

The unit is one plain gradient: forward and `torch.autograd.grad` of the same model on the same
data with torch's default settings (its own attention kernel, its own allocator). Gradient and
products alternate in every round; a ratio is taken within its round and the median is shown, so
that a busy machine disturbs both sides.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import workloads
from rich.console import Console
from rich.table import Table

import hesscope as hs
from hesscope import probes
from hesscope.autodiff import kernels, pending, written_out
from hesscope.autodiff.graph import kept_bytes

WORKLOADS = {
    "mlp": workloads.digits_mlp,
    "gpt2": workloads.gpt2,
    "resnet": workloads.resnet20_on_cifar,
    "gelu": workloads.gelu_mlp,
    "groupnorm": workloads.group_norm_cnn,
    "llama": workloads.llama,
    "long": workloads.long_llama,
    "vit": workloads.vit,
}
TARGETS = {
    "mlp": 1.75, "gpt2": 1.75, "resnet": 1.75, "gelu": 1.7, "groupnorm": 2.1, "llama": 1.9,
}  # fmt: skip
ENGINES = ["kept", "stock", "rebuilt", "forward-over-reverse", "finite-difference"]
SLICE = 0.05  # seconds of gradients, and as many products, between two looks at the clock

CLOCK = time.perf_counter

Job = Callable[[], Any]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if arguments.cpu:
        global CLOCK
        CLOCK = time.process_time
    if arguments.keep_buffers:
        from hesscope.system.malloc import keep_large_buffers

        keep_large_buffers()
    keys = arguments.only or WORKLOADS
    rows = [measure(key, WORKLOADS[key](), arguments.repeat, arguments.engines) for key in keys]
    Console(width=150).print(table(rows, arguments))
    if arguments.json:
        facts = {"threads": arguments.threads, "repeat": arguments.repeat}
        machine = {"torch": torch.__version__, "machine": platform.machine(), **facts}
        machine |= {"keep_buffers": arguments.keep_buffers, "cpu_time": arguments.cpu}
        Path(arguments.json).write_text(json.dumps({**machine, "rows": rows}, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=15, help="rounds; the median is shown")
    parser.add_argument("--only", nargs="*", choices=list(WORKLOADS))
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=ENGINES)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument(
        "--cpu", action="store_true", help="processor time: for --threads 1 on a busy machine"
    )
    parser.add_argument(
        "--keep-buffers", action="store_true", help="tune glibc: hesscope.system.malloc, both sides"
    )
    return parser.parse_args()


def measure(
    key: str, workload: workloads.Workload, repeat: int, names: list[str]
) -> dict[str, Any]:
    """Ratios to the gradient for every engine, and the bytes that gradient and Hessian keep."""
    problem = workload.problem
    v = probes.gaussian(problem.n, seed=0, dtype=torch.float32)
    engines = {
        "kept": hs.Hessian(problem),
        "stock": hs.Hessian(problem),
        "rebuilt": hs.Hessian(problem, memory=0),
        "forward-over-reverse": hs.Hessian(problem, "forward-over-reverse"),
        "finite-difference": hs.Hessian(problem, hs.CentralDifference(step=1e-3)),
    }
    reference = engines["kept"] @ v
    with stock_kernels():
        _ = engines["stock"] @ v  # whose graph is kept
    engines = {name: H for name, H in engines.items() if name in names}
    jobs: dict[str, Job] = {"first": lambda: hs.Hessian(problem) @ v}
    errors, failed = {}, {}
    for name, H in engines.items():
        try:
            errors[name] = float((H @ v - reference).norm() / reference.norm())
            jobs[name] = lambda H=H: H @ v
        except (RuntimeError, ValueError) as error:
            failed[name] = str(error).splitlines()[0]
    return {
        "key": key,
        "name": workload.name,
        "data": workload.data,
        "n": problem.n,
        "target": TARGETS.get(key),
        "ratios": rounds(workload.gradient, jobs, repeat),
        "errors": errors,
        "failed": failed,
        "gradient_bytes": kept_bytes([workload.loss(workload.model)]),
        "graph_bytes": {
            name: engines[name].facts()["graph_bytes"]
            for name in ("kept", "stock")
            if name in engines
        },
    }


@contextmanager
def stock_kernels() -> Iterator[None]:
    """Inside, graphs are built from torch's own kernels alone, and logits are computed at once."""
    ours, large, home = dict(kernels._KERNELS), pending.LARGE, written_out.HOME
    kernels._KERNELS.clear()
    pending.LARGE, written_out.HOME = sys.maxsize, "nowhere"
    try:
        yield
    finally:
        kernels._KERNELS.update(ours)
        pending.LARGE, written_out.HOME = large, home


def rounds(unit: Job, jobs: dict[str, Job], repeat: int) -> dict[str, dict[str, float]]:
    """Quartiles of time / gradient time, both taken one after the other."""
    seconds(unit, 3)
    calls = max(1, round(SLICE / seconds(unit, 3)))
    ratios: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeat):
        for name, job in jobs.items():
            ratios[name].append(seconds(job, calls) / seconds(unit, calls))
    quartiles = {name: statistics.quantiles(found, n=4) for name, found in ratios.items()}
    return {
        name: dict(zip(("lower", "median", "upper"), found, strict=True))
        for name, found in quartiles.items()
    }


def seconds(job: Job, calls: int) -> float:
    """Mean time of one call."""
    start = CLOCK()
    for _ in range(calls):
        job()
    return (CLOCK() - start) / calls


def table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> Table:
    setting = ", large buffers kept" if arguments.keep_buffers else ""
    setting += ", processor time" if arguments.cpu else ""
    title = f"Hessian-vector product / gradient, threads: {arguments.threads}{setting}"
    out = Table(title=title, caption="[...] quartiles; target for the kept graph")
    columns = ("network", "n", "kept", "target", "torch's kernels", "rebuilt", "one-off graph")
    last = "MB: kept graph, by torch's kernels, of a gradient"
    for name in (*columns, "forward-over-reverse", "finite difference", last):
        out.add_column(name, justify="left" if name == "network" else "right")
    for row in rows:
        kept, first = row["ratios"]["kept"], row["ratios"]["first"]
        target = row["target"]
        verdict = "-" if target is None else "met" if kept["median"] <= target else "missed"
        out.add_row(
            f"{row['name']}\n{row['data']}",
            f"{row['n']:,}",
            cell(row, "kept"),
            verdict if target is None else f"{target} {verdict}",
            cell(row, "stock"),
            cell(row, "rebuilt"),
            f"{first['median'] - kept['median']:.2f}",
            cell(row, "forward-over-reverse"),
            cell(row, "finite-difference"),
            ", ".join(
                f"{b / 1e6:.1f}" for b in (*row["graph_bytes"].values(), row["gradient_bytes"])
            ),
        )
    return out


def cell(row: dict[str, Any], name: str) -> str:
    if name not in row["ratios"]:
        return "fails" if name in row["failed"] else "-"
    r = row["ratios"][name]
    return f"{r['median']:.2f} \\[{r['lower']:.2f}-{r['upper']:.2f}]"


if __name__ == "__main__":
    main()

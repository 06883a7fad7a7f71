"""A GPT of ten million parameters, looked at by one process and by several: what each one does.

    python benchmarks/lean.py --minutes 2                      trains it; then, in any order,
    python benchmarks/processes.py
    torchrun --nproc-per-node 2 benchmarks/processes.py

The ten largest eigenvalues, certified, the density, and the map of layers, with lean products. Each
run writes benchmarks/results/processes-W.json: the numbers, and what one process computes, keeps
and sends, counted and not timed, because processes of one machine share its cores. Products are
kept, so that a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lean
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import hesscope as hs
from hesscope.operator.kept import KeptProducts

SENDS = ("all_reduce", "all_gather_into_tensor", "all_gather", "broadcast", "reduce_scatter_tensor")
RESULTS = Path(__file__).parent / "results"
BATCHES = 4  # of a sequence each, that are shared out
DENSITY = 40  # products
MAPPED = 2  # of them, for the map of layers: a thousand products


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="seconds; its numbers mean nothing")
    parser.add_argument("--folder", type=Path, help="where weights and products are kept")
    parser.add_argument("--json", type=Path, help="where results go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    several = dist.is_torchelastic_launched()
    if several:
        dist.init_process_group("gloo")
    try:
        found = looked_at(options)
        if not several or dist.get_rank() == 0:
            tell(found, options)
    finally:
        if several:
            dist.destroy_process_group()


def looked_at(options: argparse.Namespace) -> dict[str, Any]:
    """The results, and what a process does and sends for one product."""
    setting = lean.TINY if options.tiny else lean.Setting()
    folder = options.folder or Path("build") / ("lean-tiny" if options.tiny else "lean")
    folder.mkdir(parents=True, exist_ok=True)
    model = lean.trained(setting, folder, 0.05)
    words = lean.sequences(setting, BATCHES, seed=1)
    world = dist.get_world_size() if dist.is_initialized() else 1
    H = hs.Hessian(problem_of(model, words.chunk(BATCHES)), product="lean")
    kept = KeptProducts(H, folder / f"processes-{world}")
    k, probes = (4, 2) if options.tiny else (10, 2)
    pairs = hs.eigsh(kept, k, tol=1e-2, seed=0)
    density = hs.spectral_density(kept, min(DENSITY, setting.density), seed=1)
    layers = hs.layer_map(problem_of(model, words[:MAPPED].chunk(MAPPED)), num_probes=probes)
    v = H.probe(0)
    with Operations() as operations, sent() as bytes_sent:
        H @ v
    return {
        "processes": world,
        "parameters": H.n,
        "numbers of a Krylov vector in a process": H.in_pieces().num_local,
        "operations of a product in a process": operations.total,
        "bytes that a process brings to others for a product": sum(bytes_sent.values()),
        "products": {
            "pairs": pairs.num_matvecs, "density": density.num_matvecs, "map": layers.num_matvecs,
        },
        "eigenvalues": pairs.eigenvalues.tolist(),
        "residuals": pairs.residuals.tolist(),
        "statement": pairs.certificate.statement,
        "density, moments": [float((density.weights * density.nodes**p).sum()) for p in (1, 2)],
        "density, ends": [density.lower, density.upper],
        "layers": dict(zip(layers.layers, layers.lambda_max.tolist(), strict=True)),
    }  # fmt: skip


def problem_of(model: torch.nn.Module, batches: Any) -> hs.Problem:
    """All batches, shared out where there are several processes."""
    data = [(some, some) for some in batches]
    return hs.Problem(
        model, lean.loss, data, count=lambda t: t[:, 1:].numel(), shard=dist.is_initialized()
    )


class Operations(TorchDispatchMode):
    """Floating-point operations of what is called inside; torch's own counter hooks modules."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **kwargs, out_val=found)
        return found


@contextmanager
def sent() -> Iterator[dict[str, int]]:
    """Bytes that are brought to each collective inside."""
    found = dict.fromkeys(SENDS, 0)
    originals = {name: getattr(dist, name) for name in SENDS}

    def counting(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            own = args[-1] if name.startswith("all_gather") else args[0]
            if isinstance(own, Tensor):
                found[name] += own.numel() * own.element_size()
            return originals[name](*args, **kwargs)

        return call

    try:
        for name in SENDS:
            setattr(dist, name, counting(name))
        yield found
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def tell(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Writes the file, and compares with that of one process."""
    folder = options.json or (options.folder or RESULTS if options.tiny else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    (folder / f"processes-{found['processes']}.json").write_text(text + "\n", "utf-8")
    for name, value in found.items():
        lean.console.print(f"{name}: {value}")
    one = folder / "processes-1.json"
    if found["processes"] > 1 and one.exists():
        alone = json.loads(one.read_text("utf-8"))
        for name in ("eigenvalues", "density, moments"):
            pairs = zip(found[name], alone[name], strict=True)
            worst = max(abs(a - b) / abs(b) for a, b in pairs)
            lean.console.print(f"{name}: at most {worst:.1e} from those of one process")


if __name__ == "__main__":
    main()

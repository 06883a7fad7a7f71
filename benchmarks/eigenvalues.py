"""All eigenvalues of a large symmetric matrix: LAPACK through SciPy and torch, and two stages.

    python benchmarks/eigenvalues.py [--sizes 2000,4000,8000] [--threads 2] [--repeat 3]

SciPy works in place with its own OpenBLAS; torch with the LAPACK it was built with, in a copy;
`hesscope.dense.banded` in place, with pauses at which it could be kept. Routes alternate;
medians, ratios to torch within the run, and the largest difference in units of eps √n ‖A‖.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from scipy.linalg import eigvalsh
from torch import Tensor

from hesscope.dense import banded

console = Console(width=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="2000,4000,8000")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table(title="seconds (times torch)")
    for column in ("n", *ROUTES, "products, GF/s", "difference"):
        table.add_column(column, justify="right")
    for size in arguments.sizes.split(","):
        table.add_row(*compare(int(size), arguments.repeat))
    console.print(table)


def by_scipy(A: Tensor) -> Tensor:
    return torch.from_numpy(eigvalsh(A.numpy().T, overwrite_a=True, check_finite=False))


def by_torch(A: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(A)


def in_two_stages(A: Tensor) -> Tensor:
    banded.reduce_to_band(A)
    return banded.eigenvalues(A)


ROUTES: dict[str, Callable[[Tensor], Tensor]] = {
    "SciPy, in place": by_scipy,
    "torch": by_torch,
    "two stages, in place": in_two_stages,
}


def compare(n: int, repeat: int) -> list[str]:
    """A row of the table."""
    B = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A = B + B.T
    seconds: dict[str, list[float]] = {name: [] for name in ROUTES}
    values = {}
    for _ in range(repeat):
        for name, route in ROUTES.items():
            matrix = A.clone()
            start = time.perf_counter()
            values[name] = route(matrix)
            seconds[name].append(time.perf_counter() - start)
    start = time.perf_counter()
    B @ B
    speed = 2 * n**3 / (time.perf_counter() - start) / 1e9
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    truth = values["SciPy, in place"]
    unit = torch.finfo(A.dtype).eps * n**0.5 * float(truth.abs().max())
    worst = max(float((v - truth).abs().max()) / unit for v in values.values())
    times = [f"{t:.1f} ({t / medians['torch']:.2f})" for t in medians.values()]
    return [f"{n:,}", *times, f"{speed:.0f}", f"{worst:.1f}"]


if __name__ == "__main__":
    main()

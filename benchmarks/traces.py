"""What a trace to one per cent costs in products, and whether its interval holds.

    python benchmarks/traces.py [--peers] [--seeds 20] [--only initial] [--json FILE]

The networks of density.py: an MLP 64-60-35-10 on the digits in float64, at initialisation and
trained to three losses. The truth is the sum over the exact spectrum. `hs.trace` stops by itself
at a 95 % interval of ±1 %; the estimators beside it are told a number of products, and what is
shown is the smallest of a ladder at which their root-mean-square error over the seeds is 1 %, and
at which it is that of an interval of ±1 % (0.01/1.96). Hutchinson's variance with random signs is
known from the matrix: 2 Σ H_ij² over i ≠ j. `--peers` adds Hutch++ and XTrace of curvlinops (on
the dense matrix, which they accept and which is faster; their products are counted once, on the
operator) and PyHessian's trace, which stops by itself (tol 1e-3, at most 100).

Then the log-determinant and the effective dimension of the Gauss-Newton matrix, over a
quarter of the seeds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from density import (
    NETWORKS,
    Counted,
    Network,
    announce_peers,
    curvlinops_hessian,
    float64_by_default,
    networks,
    present,
    pyhessian_of,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor

import hesscope as hs
from hesscope.perceptron.assembly import dense_hessian
from hesscope.perceptron.mlp import recognise

RTOL = 0.01
LADDER = (12, 24, 36, 48, 60, 72, 84, 96, 120, 150, 180, 240, 300)  # multiples of 6
COUNTED = 24  # products that curvlinops is told to spend on its own operator, and spends
APART = 10_000  # between seeds of ours: probes are numbered from the seed, neighbours share them
DAMPINGS = (1e-3, 1e-1)
FUNCTIONS = {
    "log det": (hs.logdet, lambda x, d: float(np.log(x + d).sum())),
    "effective dimension": (hs.effective_dimension, lambda x, d: float((x / (x + d)).sum())),
}
PEERS = {"Hutch++": "hutchpp_trace", "XTrace": "xtrace"}

Estimator = Callable[[int, int], float]  # of a number of products and a seed
console = Console(width=140)


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if arguments.peers:
        announce_peers()
    traces, functions = [], []
    for network in networks(arguments.only):
        traces.append(measure_trace(network, arguments.seeds, arguments.peers))
        functions += measure_functions(network, math.ceil(arguments.seeds / 4))
    console.print(trace_table(traces))
    console.print(peer_table(traces))
    console.print(function_table(functions))
    if arguments.json:
        facts = {"torch": torch.__version__, "traces": traces, "functions": functions}
        Path(arguments.json).write_text(json.dumps(facts, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=NETWORKS)
    parser.add_argument("--peers", action="store_true", help="PyHessian and curvlinops, too")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


# The trace


def measure_trace(network: Network, seeds: int, peers: bool) -> dict[str, Any]:
    """Products, relative errors and misses of `hs.trace`, and what others reach."""
    A = Counted(hs.Hessian(network.problem))
    truth = float(hs.spectrum(A.A).eigenvalues.sum())
    ours = estimates(A, lambda seed: hs.trace(A, rtol=RTOL, seed=seed), truth, seeds)
    dense = dense_hessian(recognise(network.problem))
    others: dict[str, Any] = {}
    stopped: dict[str, Any] = {}
    if peers and present("curvlinops"):
        for name, estimator in curvlinops_traces(network, dense).items():
            others[f"{name}, curvlinops"] = ladder(estimator, truth, seeds)
    if peers and present("pyhessian"):
        stopped["PyHessian"] = pyhessian_traces(network, truth, seeds)
    row = {
        "name": network.name,
        "trace": truth,
        "ours": ours,
        "hutchinson": hutchinson(dense) / abs(truth),
    }
    row |= {"others": others, "stopped": stopped}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def estimates(
    A: Counted, estimate: Callable[[int], Any], truth: float, seeds: int
) -> dict[str, list[Any]]:
    """Of each seed: products as counted, error, half-width relative to the truth, and coverage."""
    out: dict[str, list[Any]] = {"products": [], "errors": [], "halves": [], "covered": []}
    for seed in range(seeds):
        A.products = 0
        found = estimate(seed * APART)
        interval = found.interval(0.95)
        assert found.num_matvecs == A.products, "what it says it spent is what it spent"
        out["products"].append(A.products)
        out["errors"].append(found.value / truth - 1)
        out["halves"].append(interval.width / 2 / abs(truth))
        out["covered"].append(truth in interval)
    return out


def hutchinson(H: Tensor) -> float:
    """The standard deviation of zᵀHz over random signs."""
    return math.sqrt(2 * float(H.square().sum() - H.diagonal().square().sum()))


def ladder(estimator: Estimator, truth: float, seeds: int) -> dict[int, float]:
    """Root-mean-square relative error over seeds at each number of products, until it is ample."""
    found: dict[int, float] = {}
    for products in LADDER:
        errors = [estimator(products, seed) / truth - 1 for seed in range(seeds)]
        found[products] = math.sqrt(float(np.mean(np.square(errors))))
        if found[products] <= RTOL / 1.96:
            break
    return found


def curvlinops_traces(network: Network, dense: Tensor) -> dict[str, Estimator]:
    curvlinops = importlib.import_module("curvlinops")
    counter = [0]
    H = curvlinops_hessian(network, counter)

    def made(function: Callable[[Any, int], Tensor]) -> Estimator:
        counter[0] = 0
        function(H, COUNTED)
        assert counter[0] == COUNTED, f"{counter[0]} products instead of {COUNTED}"

        def estimator(products: int, seed: int) -> float:
            torch.manual_seed(seed)
            return float(function(dense, products))

        return estimator

    return {name: made(getattr(curvlinops, function)) for name, function in PEERS.items()}


def pyhessian_traces(network: Network, truth: float, seeds: int) -> dict[str, list[Any]]:
    """Its default stop rule: products and the error of the mean that its users take."""
    counter = [0]
    peer = pyhessian_of(network, counter)
    out: dict[str, list[Any]] = {"products": [], "errors": []}
    for seed in range(seeds):
        counter[0] = 0
        torch.manual_seed(seed)
        with float64_by_default():
            values = peer.trace()
        out["products"].append(counter[0])
        out["errors"].append(float(np.mean(values)) / truth - 1)
    return out


# Functions of the Gauss-Newton matrix


def measure_functions(network: Network, seeds: int) -> list[dict[str, Any]]:
    A = Counted(hs.GaussNewton(network.problem))
    exact = np.maximum(hs.spectrum(A.A).eigenvalues.numpy(), 0.0)
    rows = []
    for name, (function, value) in FUNCTIONS.items():
        for damping in DAMPINGS:
            truth = value(exact, damping)
            found = estimates(
                A, lambda seed, f=function, d=damping: f(A, d, seed=seed), truth, seeds
            )
            row = {"name": network.name, "function": name, "damping": damping, "truth": truth}
            rows.append(row | {"ours": found})
            print(row, found["products"], file=sys.stderr, flush=True)
    return rows


# Tables


def trace_table(rows: list[dict[str, Any]]) -> Table:
    out = Table(title=f"hs.trace to a 95 % interval of ±{RTOL:.0%}: median \\[max] over seeds")
    names = ("products", "half-width", "rms error", "covered", "Hutchinson at as many: rms error")
    for name in ("network", "trace", *names):
        out.add_column(name, justify="left" if name == "network" else "right")
    for row in rows:
        products = statistics.median(row["ours"]["products"])
        equal = f"{row['hutchinson'] / math.sqrt(products):.1%}"
        out.add_row(row["name"], f"{row['trace']:.4g}", *columns(row["ours"]), equal)
    return out


def peer_table(rows: list[dict[str, Any]]) -> Table:
    out = Table(title="The others: products for an rms error of 1 % / of 0.51 % (95 % within 1 %)")
    names = list(dict.fromkeys(name for row in rows for name in row["others"]))
    stopped = list(dict.fromkeys(name for row in rows for name in row["stopped"]))
    for name in ("network", "Hutchinson", *names, *(f"{s}, its own stop" for s in stopped)):
        out.add_column(name, justify="left" if name == "network" else "right")
    for row in rows:
        cells = [
            f"{needed(row['others'][name], RTOL)} / {needed(row['others'][name], RTOL / 1.96)}"
            for name in names
        ]
        long = [f"{math.ceil((row['hutchinson'] / e) ** 2)}" for e in (RTOL, RTOL / 1.96)]
        out.add_row(
            row["name"],
            " / ".join(long),
            *cells,
            *(own_stop(row["stopped"][name]) for name in stopped),
        )
    return out


def needed(found: dict[int, float], error: float) -> str:
    enough = [products for products, e in sorted(found.items()) if e <= error]
    return str(enough[0]) if enough else f"> {max(found)}"


def own_stop(found: dict[str, list[Any]]) -> str:
    errors = np.array(found["errors"])
    within = int((np.abs(errors) <= RTOL).sum())
    return (
        f"{spread(found['products'])} products, rms {rms(errors):.1%}, "
        f"worst {np.abs(errors).max():.0%}, {within} of {len(errors)} within 1 %"
    )


def function_table(rows: list[dict[str, Any]]) -> Table:
    out = Table(
        title="Functions of the Gauss-Newton matrix, default rtol: median \\[max] over seeds"
    )
    names = ("products", "half-width", "rms error", "covered")
    for name in ("network", "function", "damping", "exact", *names):
        out.add_column(name, justify="left" if name in ("network", "function") else "right")
    for row in rows:
        out.add_row(
            row["name"], row["function"], f"{row['damping']:g}", f"{row['truth']:.5g}",
            *columns(row["ours"]),
        )  # fmt: skip
    return out


def columns(found: dict[str, list[Any]]) -> tuple[str, ...]:
    """Products, half-width, error and coverage."""
    halves = found["halves"]
    return (
        spread(found["products"]),
        f"{statistics.median(halves):.2%} [{max(halves):.2%}]",
        f"{rms(np.array(found['errors'])):.2%}",
        f"{sum(found['covered'])} of {len(found['covered'])}",
    )


def spread(counts: list[int]) -> str:
    return f"{statistics.median(counts):g} [{max(counts)}]"


def rms(errors: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(errors))))


if __name__ == "__main__":
    main()

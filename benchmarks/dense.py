"""The dense Hessian of a perceptron by matrix products, beside the routes that torch offers.

    python benchmarks/dense.py [--threads 2] [--repeat 3] [--limit 300] [--json FILE]
    python benchmarks/dense.py --layers 784-30-30-10      # too large for the others: ours alone

A ReLU network on 1000 MNIST images (random sparse ones where the file is absent), trained a
little, in float64. Every route runs once with each chunk size; then the fastest of each kind
alternates with ours and medians are shown. Peak memory is that of the process during a step.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.dense import banded
from hesscope.perceptron.assembly import assembly_bytes, dense_hessian
from hesscope.perceptron.mlp import recognise
from hesscope.perceptron.reductions import reduce, reduced_hessian

MNIST = Path(
    os.environ.get("HESSCOPE_MNIST", Path(__file__).parents[2] / "shared/data/mnist_12k.npz")
)
CHUNKS = (64, 256, 512)
COMPARED = 12_000  # parameters: above, only our own steps run

Route = Callable[[], Tensor]
console = Console(width=120)


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    widths = [int(width) for width in arguments.layers.split("-")]
    problem = trained(widths, arguments.examples)
    if arguments.peer:  # a process of its own, which may take too long or too much
        seconds, _ = timed(torch_hessian(problem))
        sys.stdout.write(f"{seconds}\n")
        return
    console.print(f"{arguments.layers}, n = {problem.n:,}, loss {problem.loss():.2g}")
    facts = own_steps(problem)
    if problem.n <= COMPARED:
        facts["routes"] = compare(problem, arguments)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(facts, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default="784-10-10-10")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300, help="seconds for torch.func.hessian")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


# The problem


def images(num: int) -> tuple[Tensor, Tensor]:
    """The first images as rows in [0, 1], and their labels."""
    if not MNIST.exists():
        generator = torch.Generator().manual_seed(0)
        X = torch.rand(num, 784, generator=generator, dtype=torch.float64)
        return X * (X > 0.8), torch.randint(10, (num,), generator=generator)
    with np.load(MNIST) as archive:
        X, y = archive["x_train"][:num], archive["y_train"][:num]
    return torch.tensor(X, dtype=torch.float64).flatten(1) / 255, torch.tensor(y).long()


def trained(widths: list[int], num: int, steps: int = 200) -> hs.Problem:
    """A ReLU network after some steps of gradient descent with momentum."""
    torch.manual_seed(0)
    X, y = images(num)
    modules: list[nn.Module] = []
    for i in range(len(widths) - 1):
        modules += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
    model = nn.Sequential(*modules[:-1]).double()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(X), y).backward()
        optimiser.step()
    return hs.Problem(model, F.cross_entropy, (X, y))


# Our own steps


def own_steps(problem: hs.Problem) -> dict[str, Any]:
    """Recognise, reduce, assemble and diagonalise, each with its time and peak memory."""
    small = problem.n <= COMPARED
    rows: list[dict[str, Any]] = []
    mlp = step("recognise", rows, lambda: recognise(problem))
    assert mlp is not None
    reduction = step("reduce", rows, lambda: reduce(mlp))
    reduced = step("reduced assembly", rows, lambda: reduced_hessian(reduction))
    errors = product_errors(problem, lambda V: reduction.lift(reduced @ reduction.project(V)))
    values = step("eigenvalues, reduced", rows, lambda: in_place(reduced))
    facts = {"n": problem.n, "size": reduction.size, "zeros": reduction.zeros, "steps": rows}
    facts["product_error"] = errors
    facts["stated_bytes"] = assembly_bytes(mlp, reduction.size)
    if small:
        H = step("full assembly", rows, lambda: dense_hessian(mlp))
        facts["product_error_full"] = product_errors(problem, lambda V: H @ V)
        full = step("eigenvalues, full", rows, lambda: in_place(H))
        difference = np.abs(reduction.spectrum(torch.tensor(values)).numpy() - full).max()
        facts["eigenvalue_difference"] = float(difference / np.abs(full).max())
    facts["extremes"] = [float(values[0]), float(values[-1])]
    show_steps(facts)
    return facts


def in_place(H: Tensor) -> np.ndarray[Any, Any]:
    """Eigenvalues in the memory of H."""
    banded.reduce_to_band(H)
    return banded.eigenvalues(H).numpy()


def product_errors(problem: hs.Problem, multiply: Callable[[Tensor], Tensor]) -> float:
    """The relative difference from the matvecs of autograd, on four random vectors."""
    generator = torch.Generator().manual_seed(1)
    V = torch.randn(problem.n, 4, dtype=torch.float64, generator=generator)
    expected = hs.Hessian(problem) @ V
    return float((multiply(V) - expected).norm() / expected.norm())


def step(name: str, rows: list[dict[str, Any]], job: Callable[[], Any]) -> Any:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    seconds, result = timed(job)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    rows.append({"step": name, "seconds": seconds, "peak_bytes": peak})
    return result


def timed(job: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = job()
    return time.perf_counter() - start, result


def show_steps(facts: dict[str, Any]) -> None:
    table = Table(title=f"n = {facts['n']:,} reduced to {facts['size']:,}")
    for name in ("step", "seconds", "peak memory, GB"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for row in facts["steps"]:
        table.add_row(row["step"], f"{row['seconds']:.2f}", f"{row['peak_bytes'] / 1e9:.2f}")
    console.print(table)
    for name in facts:
        if name not in ("steps", "n", "size"):
            console.print(f"{name}: {facts[name]}")


# The routes that torch offers


def compare(problem: hs.Problem, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of ours and of the fastest chunk size of each other route, alternating."""
    mlp = recognise(problem)
    assert mlp is not None
    H = dense_hessian(mlp)
    kinds = {"jacfwd of grad": jacfwd_of_grad, "batched double backward": double_backward}
    best: dict[str, Route] = {}
    errors = {}
    for name, make in kinds.items():
        times = {}
        for chunk in CHUNKS:
            times[chunk], found = timed(make(problem, chunk))
            errors[name] = float((found - H).norm() / H.norm())
            console.print(f"{name}, chunk {chunk}: {times[chunk]:.1f} s")
            del found
        chunk = min(times, key=times.__getitem__)
        best[f"{name}, chunk {chunk}"] = make(problem, chunk)
    del H
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *best)}
    for _ in range(arguments.repeat):
        for name, route in best.items():
            seconds[name].append(timed(route)[0])
            seconds["ours"].append(timed(lambda: dense_hessian(mlp))[0])
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    fastest = min(medians[name] for name in best)
    medians["torch.func.hessian"] = hessian_within(arguments)
    table = Table(title=f"dense Hessian, {arguments.threads} threads; target: 1/3 of the fastest")
    for name in ("route", "seconds", "ours / route"):
        table.add_column(name, justify="left" if name == "route" else "right")
    for name, median in medians.items():
        table.add_row(name, f"{median:.2f}", f"{medians['ours'] / median:.3f}")
    console.print(table)
    verdict = "met" if medians["ours"] <= fastest / 3 else "missed"
    console.print(f"target {verdict}; relative differences {errors}")
    return {"seconds": seconds, "medians": medians, "errors": errors}


def as_function(problem: hs.Problem) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The loss as a function of theta by torch.func alone."""
    layout, model = problem.layout, problem.model
    ((X, y),) = [batch.content for batch in problem.batches]

    def loss(theta: Tensor) -> Tensor:
        tensors = dict(zip(layout.names, layout.split(theta), strict=True))
        return F.cross_entropy(torch.func.functional_call(model, tensors, (X,)), y)

    return loss, problem.theta


def jacfwd_of_grad(problem: hs.Problem, chunk: int) -> Route:
    """torch.func.jacfwd(torch.func.grad(loss)) in chunks, which jacfwd itself does not offer."""
    loss, theta = as_function(problem)

    def column(v: Tensor) -> Tensor:
        return torch.func.jvp(torch.func.grad(loss), (theta,), (v,))[1]

    columns = torch.func.vmap(column, chunk_size=chunk)
    return lambda: columns(torch.eye(len(theta), dtype=theta.dtype))


def torch_hessian(problem: hs.Problem) -> Route:
    loss, theta = as_function(problem)
    return lambda: torch.func.hessian(loss)(theta)


def double_backward(problem: hs.Problem, chunk: int) -> Route:
    loss, theta = as_function(problem)

    def route() -> Tensor:
        point = theta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(point), point, create_graph=True)
        H = torch.empty(len(theta), len(theta), dtype=theta.dtype)
        for start in range(0, len(theta), chunk):
            unit = torch.zeros(min(chunk, len(theta) - start), len(theta), dtype=theta.dtype)
            unit[torch.arange(len(unit)), start + torch.arange(len(unit))] = 1.0
            (rows,) = torch.autograd.grad(
                gradient, point, unit, retain_graph=True, is_grads_batched=True
            )
            H[start : start + len(unit)] = rows
        return H

    return route


def hessian_within(arguments: argparse.Namespace) -> float:
    """Seconds of torch.func.hessian in a process of its own; infinite if it does not finish."""
    command = [sys.executable, __file__, "--peer", "--layers", arguments.layers]
    command += ["--threads", str(arguments.threads), "--examples", str(arguments.examples)]
    limit = 18 * 10**9  # bytes: the machine has 24 GB

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    try:
        done = subprocess.run(
            command, capture_output=True, timeout=arguments.limit, check=True, preexec_fn=confine
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        console.print(f"torch.func.hessian: {type(error).__name__}")
        return float("inf")
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()

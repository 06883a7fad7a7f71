"""One training, seen often enough to be compared at equal gradients, seconds and steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from common.keeping import Arrays
from torch import Tensor, nn

import hesscope as hs

LOSS = 1 / 3  # of a gradient
SEEN = 60  # times in a course, about
ITERATIONS = 5  # of L-BFGS, at a time


@dataclass
class Course:
    """Losses over all examples, with what they have cost until then."""

    loss: Callable[[], Tensor]
    until: Callable[[float, float, int], bool]  # gradients, seconds, steps
    every: float  # gradients between two looks
    at_once: int = 1  # steps
    rows: list[tuple[float, float, float, int]] = field(default_factory=list)

    def run(self, steps: Iterator[float]) -> Arrays:
        """Steps that say what each has cost, in gradients of all examples."""
        cost, seconds, number, following = 0.0, 0.0, 0, 0.0
        while True:
            if cost >= following:
                with torch.no_grad():
                    self.rows.append((cost, seconds, float(self.loss()), number))
                following = cost + self.every
            if self.until(cost, seconds, number):
                break
            start = time.process_time()
            cost += next(steps)
            seconds += time.process_time() - start
            number += self.at_once
        names = "gradients", "seconds", "loss", "steps"
        columns = zip(*self.rows, strict=True)
        return {n: torch.tensor(c).double() for n, c in zip(names, columns, strict=True)}


def at(course: Arrays, unit: str, where: float) -> float:
    """The loss at so many gradients, seconds or steps, between two looks by a line in its log."""
    return float(
        np.exp(
            np.interp(where, course[unit].numpy(), course["loss"].clamp(min=1e-300).log().numpy())
        )
    )


def first_order(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    data: tuple[Tensor, Tensor],
    size: int,
    seed: int,
) -> Iterator[float]:
    """One gradient a step, of batches of this size."""
    X, targets = data
    generator = torch.Generator().manual_seed(seed)
    while True:
        for some in torch.randperm(len(X), generator=generator).split(size):
            optimizer.zero_grad()
            loss_fn(net(X[some]), targets[some]).backward()
            optimizer.step()
            yield len(some) / len(X)


def lbfgs(
    net: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    data: tuple[Tensor, Tensor],
) -> Iterator[float]:
    """torch's own, with its line search: some iterations at a time.

    One at a time it would evaluate the loss twice at each point, and by its default of max_eval
    leave the line search a single evaluation.
    """
    X, targets = data
    optimizer = torch.optim.LBFGS(
        net.parameters(),
        max_iter=ITERATIONS,
        max_eval=25 * ITERATIONS,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = loss_fn(net(X), targets)
        loss.backward()
        return loss

    while True:
        before = calls
        optimizer.step(closure)
        yield calls - before


def newton(
    optimizer: hs.optim.NewtonCG,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    data: tuple[Tensor, Tensor],
    size: int,
    product: float,
    seed: int,
) -> Iterator[float]:
    """Gradients of all examples, curvature of so many, drawn anew for every step."""
    X, targets = data
    net, group = optimizer.problem.model, optimizer.param_groups[0]
    generator = torch.Generator().manual_seed(seed)
    while True:
        before = group["num_matvecs"], group["num_losses"]
        optimizer.zero_grad()
        loss_fn(net(X), targets).backward()
        some = torch.randperm(len(X), generator=generator)[:size]
        optimizer.step(batch=None if size == len(X) else (X[some], targets[some]))
        matvecs, losses = group["num_matvecs"] - before[0], group["num_losses"] - before[1]
        yield 1 + (product * matvecs + LOSS * losses) * size / len(X)


def product_in_gradients(
    problem: hs.Problem, data: tuple[Tensor, Tensor], repeats: int = 9
) -> Arrays:
    """What a Gauss-Newton product takes, in processor seconds of a gradient of the same data."""
    G, v = hs.GaussNewton(problem), torch.ones(problem.n)
    taken = []
    for _ in range(repeats + 1):
        start = time.process_time()
        problem.loss_fn(problem.model(data[0]), data[1]).backward()
        middle = time.process_time()
        G @ v
        taken.append((middle - start, time.process_time() - middle))
    gradient, product = np.median(np.array(taken[1:]), axis=0)
    return {"product": torch.tensor(product / gradient), "gradient": torch.tensor(gradient)}

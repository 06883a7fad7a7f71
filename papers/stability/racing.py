"""Trainings to a loss: with learning rates of a grid, with what curvature tells, by Newton."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from common.keeping import Arrays
from torch import Tensor, nn

import hesscope as hs
from stability.training import ENTROPY, SQUARED, Course, examples, loss_function, network

GRID = tuple(2.0**k for k in range(-4, 5))  # learning rates
USUAL = (0.01, 0.1)  # what one takes without looking
AGAIN = 50  # steps after which curvature is asked again
PRODUCT, LOSS = 2.0, 1 / 3  # what a product and a loss cost, in gradients


@dataclass(frozen=True)
class Race:
    """A training and the loss that it has to reach."""

    activation: str
    loss: str
    goal: float
    momentum: float = 0.0
    batch: int = 0  # 0: all data
    steps: int = 2_000  # at most

    @property
    def course(self) -> Course:
        """The network and data of it."""
        return Course(0.0, self.steps, 1, self.activation, self.loss, batch=self.batch)

    @property
    def share(self) -> float:
        """What a step costs, in gradients of all data."""
        return self.batch / self.course.examples if self.batch else 1.0

    @property
    def alone(self) -> bool:
        """Whether Newton's method is run beside it: once for each network and goal."""
        return not self.momentum and not self.batch

    def rivals(self, other: Race) -> bool:
        """Whether the other trains the same network to the same loss on all data."""
        return not other.batch and replace(other, momentum=0.0) == replace(self, momentum=0.0)


RACES = {
    f"tanh, {SQUARED}": Race("tanh", SQUARED, 0.02),
    f"ReLU, {SQUARED}": Race("relu", SQUARED, 0.02),
    f"tanh, {ENTROPY}": Race("tanh", ENTROPY, 0.1),
    f"tanh, {SQUARED}, momentum 0.9": Race("tanh", SQUARED, 0.02, momentum=0.9),
    f"tanh, {ENTROPY}, batches of 20": Race("tanh", ENTROPY, 0.1, batch=20),
    f"tanh, {SQUARED}, low": Race("tanh", SQUARED, 0.005, steps=4_000),
    f"tanh, {SQUARED}, low, momentum 0.9": Race("tanh", SQUARED, 0.005, 0.9, steps=4_000),
    f"linear, {SQUARED}": Race("none", SQUARED, 0.0983),  # 1.1 times the least
}


def raced(race: Race, seeds: int) -> Arrays:
    """Steps to the goal, infinite where it is not reached, and the price of advice in gradients.

    `grid` and `usual` (lr, seed); the others by seed. `newton` is in gradients, all counted.
    """
    every = range(seeds)
    once = [descend(race, seed, None) for seed in every]
    often = [descend(race, seed, None, AGAIN) for seed in every]
    found = {
        "grid": [[descend(race, seed, lr)[0] for seed in every] for lr in GRID],
        "usual": [[descend(race, seed, lr)[0] for seed in every] for lr in USUAL],
        "once": [run[0] for run in once],
        "once_price": [run[1] for run in once],
        "often": [run[0] for run in often],
        "often_price": [run[1] for run in often],
        "lr": [run[2] for run in once],
    }
    if race.alone:
        found["newton"] = [by_newton(race, seed) for seed in every]
    return {key: torch.tensor(values, dtype=torch.float64) for key, values in found.items()}


def descend(race: Race, seed: int, lr: float | None, again: int = 0) -> tuple[float, float, float]:
    """Steps to the goal; what advice cost, in gradients of all data; the first lr.

    Without an lr advice is asked before the first step, and anew after every `again`.
    """
    course = race.course
    X, y = examples(course.examples, course.loss)
    model, loss_fn = network(course, seed), loss_function(course)
    problem = hs.Problem(model, loss_fn, (X, y))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr or 1.0, momentum=race.momentum)
    generator = torch.Generator().manual_seed(seed)
    price, first = 0.0, lr or math.nan
    for step in range(race.steps + 1):
        loss = loss_fn(model(X), y)
        if float(loss.detach()) <= race.goal:
            return float(step), price, first
        if not math.isfinite(float(loss.detach())):
            break
        if lr is None and (step == 0 or (again and step % again == 0)):
            advice = hs.suggest_lr(problem, optimizer, race.batch or None, seed=seed)
            optimizer.param_groups[0]["lr"] = advice.lr
            price += PRODUCT * advice.num_matvecs + advice.num_gradients
            first = advice.lr if step == 0 else first
        optimizer.zero_grad()
        _gradient(loss, model, loss_fn, X, y, race.batch, generator)
        optimizer.step()
    return math.inf, price, first


def _gradient(
    loss: Tensor, model: nn.Module, loss_fn: Callable[[Tensor, Tensor], Tensor],
    X: Tensor, y: Tensor, batch: int, generator: torch.Generator,
) -> None:  # fmt: skip
    """Of the loss of all data, or of a batch."""
    if batch:
        some = torch.randperm(len(X), generator=generator)[:batch]
        loss = loss_fn(model(X[some]), y[some])
    loss.backward()


def by_newton(race: Race, seed: int) -> float:
    """Gradients that Hessian-free Newton takes to the goal, products and losses counted in."""
    course = race.course
    X, y = examples(course.examples, course.loss)
    model, loss_fn = network(course, seed), loss_function(course)
    optimizer = hs.optim.NewtonCG(hs.Problem(model, loss_fn, (X, y)))
    group = optimizer.param_groups[0]
    for step in range(race.steps + 1):
        optimizer.zero_grad()
        loss = loss_fn(model(X), y)
        price = step + PRODUCT * group["num_matvecs"] + LOSS * group["num_losses"]
        if float(loss.detach()) <= race.goal:
            return price
        if price > race.steps:
            break
        loss.backward()
        optimizer.step()
    return math.inf

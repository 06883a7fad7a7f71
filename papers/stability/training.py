"""The networks and data of all parts, and one training watched by `hs.Monitor`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from common import data
from common.keeping import Arrays
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs

SQUARED, ENTROPY = "squared error", "cross-entropy"


@dataclass(frozen=True)
class Course:
    """A training: everything that its numbers depend on."""

    lr: float
    steps: int
    every: int  # steps between looks
    activation: str = "tanh"
    loss: str = SQUARED
    width: int = 16
    examples: int = 100
    batch: int = 0  # 0: all data
    adam: bool = False


def examples(num: int, loss: str) -> tuple[Tensor, Tensor]:
    """Digits of 7 x 7 pixels, standardised, and labels or their unit vectors."""
    X, y = data.digits(examples=num, pool=4)
    X = (X - X.mean()) / X.std()
    return X, F.one_hot(y, 10).double() if loss == SQUARED else y


def network(course: Course, seed: int) -> nn.Sequential:
    """49-width-10, or 49-10 where the activation is "none"."""
    torch.manual_seed(seed)
    if course.activation == "none":
        return nn.Sequential(nn.Linear(49, 10)).double()
    between = nn.Tanh() if course.activation == "tanh" else nn.ReLU()
    return nn.Sequential(nn.Linear(49, course.width), between, nn.Linear(course.width, 10)).double()


def loss_function(course: Course) -> Callable[[Tensor, Tensor], Tensor]:
    """Of the name."""
    return F.mse_loss if course.loss == SQUARED else F.cross_entropy


def optimizer(course: Course, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or Adam."""
    kind: Any = torch.optim.Adam if course.adam else torch.optim.SGD
    return kind(model.parameters(), lr=course.lr)


def watched(
    course: Course,
    seed: int,
    quantities: Iterable[str | Callable[[hs.Problem], Any]],
    keys: tuple[str, ...],
) -> Arrays:
    """The series of these keys at every look, the steps, and the loss before every step."""
    X, y = examples(course.examples, course.loss)
    model, loss_fn = network(course, seed), loss_function(course)
    problem, stepper = hs.Problem(model, loss_fn, (X, y)), optimizer(course, model)
    monitor = hs.Monitor(
        problem, stepper, every=course.every, quantities=list(quantities), seed=seed
    )
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(course.steps):
        some: Any = slice(None)
        if course.batch:
            some = torch.randperm(len(X), generator=generator)[: course.batch]
        stepper.zero_grad()
        loss = loss_fn(model(X[some]), y[some])
        losses.append(float(loss.detach()))
        loss.backward()
        stepper.step()
    history = monitor.history
    monitor.close()
    steps = history[keys[0]].steps
    found = {}
    for key in keys:  # Adam has no preconditioner before its first step
        found[key] = torch.full((len(steps),), math.nan, dtype=torch.float64)
        found[key][torch.searchsorted(steps, history[key].steps)] = history[key].values
    return {**found, "step": steps, "losses": torch.tensor(losses, dtype=torch.float64)}


def stacked(runs: list[Arrays]) -> Arrays:
    """The same of several seeds, with a first axis for them; the steps once."""
    return {
        key: runs[0][key] if key == "step" else torch.stack([run[key] for run in runs])
        for key in runs[0]
    }


def late(values: Tensor) -> Tensor:
    """Medians over the last third of all looks, by seed."""
    return values[:, -max(values.shape[1] // 3, 1) :].median(1).values

"""Passage times: a saddle in three dimensions, and a network's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from common.keeping import Arrays
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from acting.settings import Settings

NEVER = -1
LR, MOMENTUM = 0.1, 0.9
OFF = 1e-6  # the stable manifold
SINGULAR = (2.0, 1.0)  # of the map that the linear network is to learn
LINEAR_LR = 0.3
THROUGH = 0.5  # of the second layer, what it does to each hidden unit alone
METHODS = "gradient descent", "momentum", "PerturbedSGD", "SaddleFreeNewton"
Make = Callable[[hs.Problem], torch.optim.Optimizer]


def saddle(t: Tensor) -> Tensor:
    """Minima 0 at (±1, 0, 0), a saddle of height 1/4 at 0 whose stable manifold is t0 = 0."""
    return (t[0] ** 2 - 1) ** 2 / 4 + (t[1] ** 2 + t[2] ** 2) / 2


def passage(problem: hs.Problem, make: Make, loss: Callable[[], Tensor], below: float, most: int):
    """(steps until the loss is below, or NEVER; the last loss)."""
    optimizer = make(problem)
    for step in range(most):
        optimizer.zero_grad()
        value = loss()
        if float(value.detach()) < below:
            return step, float(value.detach())
        value.backward()
        optimizer.step()
    return NEVER, float(loss().detach())


def makers(lr: float, radius: float, seed: int) -> dict[str, Make]:
    """The four methods; noise in every step."""

    def first(kind: Any, **options: Any) -> Make:
        return lambda problem: kind(problem.model.parameters(), lr=lr, **options)

    return {
        "gradient descent": first(torch.optim.SGD),
        "momentum": first(torch.optim.SGD, momentum=MOMENTUM),
        "PerturbedSGD": first(hs.optim.PerturbedSGD, radius=radius, seed=seed),
        "SaddleFreeNewton": lambda problem: hs.optim.SaddleFreeNewton(problem, damping=1e-2),
    }


def on_the_saddle(start: float, name: str, *, radius: float = 1e-2, seed: int = 0, most: int):
    """From (start, .7, -.4)."""
    at = torch.tensor([start, 0.7, -0.4], dtype=torch.float64)
    problem = hs.Problem.from_function(saddle, at)
    (theta,) = problem.model.parameters()
    make = makers(LR, radius, seed)[name]
    return passage(problem, make, lambda: saddle(theta), 0.01, most)


def plane(settings: Settings) -> Arrays:
    """The three-dimensional saddle: all methods from 0 and from OFF, and noise of all radii."""
    runs = [
        [on_the_saddle(start, name, most=settings.plane_steps) for name in METHODS]
        for start in (0.0, OFF)
    ]
    steps = [
        [
            on_the_saddle(0.0, "PerturbedSGD", radius=radius, seed=seed, most=settings.plane_steps)[
                0
            ]
            for seed in range(settings.escapes)
        ]
        for radius in settings.radii
    ]
    return {
        "steps": torch.tensor([[run[0] for run in row] for row in runs]),
        "losses": torch.tensor([[run[1] for run in row] for row in runs]).double(),
        "noisy": torch.tensor(steps),
    }


def line(radii: tuple[float, ...], noisy: Tensor) -> tuple[float, float]:
    """Intercept and slope of the median number of steps in log(1/radius), by least squares."""
    x = torch.tensor([math.log(1 / radius) for radius in radii], dtype=torch.float64)
    y = noisy.double().median(1).values
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return float(y.mean()) - slope * float(x.mean()), slope


def linear(off: float, seed: int) -> tuple[nn.Sequential, hs.Problem, Callable[[], Tensor]]:
    """W3 W2 W1 with all hidden units alike but for `off`, to learn a map of rank two.

    Any permutation of the hidden units leaves the start as it is, and descent keeps that: units
    that are alike make a map of rank one, and the best of these is a saddle.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    U, V = (torch.linalg.qr(normal(6, 2))[0] for _ in range(2))
    target = U @ torch.diag(torch.tensor(SINGULAR, dtype=torch.float64)) @ V.T
    net = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(3))).double()
    with torch.no_grad():
        net[0].weight.copy_(0.3 * normal(1, 6).expand(6, 6))
        net[1].weight.copy_(THROUGH * torch.eye(6, dtype=torch.float64) + 0.1)
        net[2].weight.copy_(0.3 * normal(6, 1).expand(6, 6))
        for layer in net:
            layer.weight.add_(off * normal(6, 6))
    X = torch.eye(6, dtype=torch.float64)

    def loss_fn(output: Tensor, targets: Tensor) -> Tensor:
        return 3 * F.mse_loss(output, targets)  # (1/2) of the sum of squares over six examples

    problem = hs.Problem(net, loss_fn, (X, target))
    return net, problem, lambda: loss_fn(net(X), target)


def own(settings: Settings) -> Arrays:
    """Steps to half the loss of the best map of rank one: (start, method, seed)."""
    below = SINGULAR[1] ** 2 / 2 / 6 / 2
    steps, losses = [], []
    for off in (0.0, OFF):
        rows = []
        for name in METHODS:
            found = []
            for seed in range(settings.seeds):
                _, problem, loss = linear(off, seed)
                make = makers(LINEAR_LR, 1e-3, seed)[name]
                most = settings.linear_steps if "Newton" not in name else 300
                found.append(passage(problem, make, loss, below, most))
            rows.append(found)
        steps.append([[run[0] for run in row] for row in rows])
        losses.append([[run[1] for run in row] for row in rows])
    return {"steps": torch.tensor(steps), "losses": torch.tensor(losses).double()}

"""How the saddles that were found are left: descent, momentum, noise, curvature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from common.keeping import Arrays, Run
from torch import Tensor

import hesscope as hs
from stationary import finder, points
from stationary.networks import Setting, setting
from stationary.settings import Sizes

RATE = 0.5  # times 1/max|λ| of the saddle: the step size
MOMENTUM = 0.9
KICKS = (1e-2, 1e-4, 1e-6)  # lengths, in θ
SMALL = KICKS[-1]
NOISE = 1e-3  # in every gradient
FALL = 1e-4  # of the loss of the saddle, by which it is left
NEWTONS = 10  # saddles of a setting that the costly methods leave
NEWTON_STEPS = 60


@dataclass(frozen=True)
class Way:
    """One method of the first order, from a saddle or beside it."""

    kick: float = 0.0
    momentum: float = 0.0
    slower: float = 1.0  # divides the step size
    noise: float = 0.0


WAYS = {
    "descent": Way(),
    "momentum": Way(momentum=MOMENTUM),
    "noise": Way(noise=NOISE),
    **{f"kick {r:g}": Way(kick=r) for r in KICKS},
    "momentum, kick": Way(kick=SMALL, momentum=MOMENTUM),
    "slower momentum, kick": Way(kick=SMALL, momentum=MOMENTUM, slower=1 / (1 - MOMENTUM)),
}


def chosen(run: Run, sizes: Sizes, name: str) -> Arrays:
    """Strict saddles of a setting, spread over their losses."""
    found = points.sure(points.found(run, sizes, name))
    saddles = (finder.index(found["eigenvalues"]) > 0).nonzero().flatten()
    order = saddles[found["loss"][saddles].argsort()]
    where = torch.linspace(0, len(order) - 1, min(sizes.saddles, len(order))).round().long()
    return {key: array[order[where]] for key, array in found.items()}


def left(run: Run, sizes: Sizes, name: str) -> Arrays:
    """Steps of every method, (saddles,); infinite where the saddle was not left."""
    saddles = chosen(run, sizes, name)
    on, most = setting(name), sizes.escape_steps
    key = (on.words, saddles["loss"].tolist(), WAYS, most, RATE, NOISE, FALL)
    steps = run.arrays(f"left/{name}", key, lambda: _by_first_order(on, saddles, most))
    newton = run.arrays(f"newton/{name}", (*key, NEWTONS), lambda: _by_curvature(on, saddles))
    return {**saddles, **steps, **newton}


def _by_first_order(on: Setting, saddles: Arrays, most: int) -> Arrays:
    size = saddles["eigenvalues"].abs().amax(1)
    below = saddles["loss"] * (1 - FALL)
    return {
        name: passage(on, saddles["theta"], RATE / size, below, most, way)
        for name, way in WAYS.items()
    }


def passage(on: Setting, theta: Tensor, lr: Tensor, below: Tensor, most: int, way: Way) -> Tensor:
    """Steps until each loss is below, (num,); infinite if that takes more than `most`."""
    generator = torch.Generator().manual_seed(11)
    theta = theta + way.kick * _directions(theta, generator)
    steps = torch.full((len(theta),), math.inf, dtype=torch.float64)
    v, rate, going = torch.zeros_like(theta), lr[:, None] / way.slower, torch.arange(len(theta))
    for step in range(most):
        there = on.losses(theta) < below[going]
        steps[going[there]] = step
        theta, v, rate, going = (a[~there] for a in (theta, v, rate, going))
        if not len(going):
            break
        g = on.gradients(theta)
        if way.noise:
            g = g + way.noise * _directions(theta, generator)
        v = way.momentum * v + g
        theta = theta - rate * v
    return steps


def _directions(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random unit vectors."""
    z = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return z / z.norm(dim=1, keepdim=True)


def _by_curvature(on: Setting, saddles: Arrays) -> Arrays:
    """hs.escape from each saddle, and saddle-free Newton steps after a small kick."""
    rows = [
        _one(on, theta, loss) for theta, loss in zip(saddles["theta"], saddles["loss"], strict=True)
    ]
    newton = [
        _newton(on, theta, float(loss) * (1 - FALL))
        for theta, loss in zip(saddles["theta"][:NEWTONS], saddles["loss"][:NEWTONS], strict=True)
    ]
    names = "found", "fall", "predicted", "products"
    return {
        **{
            n: torch.tensor(c).double() for n, c in zip(names, zip(*rows, strict=True), strict=True)
        },
        "newton steps": torch.tensor([row[0] for row in newton], dtype=torch.float64),
        "newton cost": torch.tensor([row[1] for row in newton], dtype=torch.float64),
    }


def _one(on: Setting, theta: Tensor, loss: Tensor) -> tuple[bool, float, float, int]:
    """(whether there is a way down, the fall and that predicted, in the loss; products)."""
    e = hs.escape(on.problem(theta), seed=0)
    return e.found, e.measured / float(loss), e.predicted / float(loss), e.num_matvecs


def _newton(on: Setting, theta: Tensor, below: float) -> tuple[float, float]:
    """(steps, cost in gradients) of SaddleFreeNewton; infinite if the saddle was not left."""
    problem = on.problem(theta)
    problem.write(hs.kick(problem, SMALL, seed=0))
    optimizer = hs.optim.SaddleFreeNewton(problem, damping=1e-2)
    X, T = on.X, on.T
    for step in range(NEWTON_STEPS):
        optimizer.zero_grad()
        loss = problem.loss_fn(problem.model(X), T)
        if float(loss.detach()) < below:
            group = optimizer.param_groups[0]
            return step, step + 2 * group["num_matvecs"] + group["num_losses"] / 3
        loss.backward()
        optimizer.step()
    return math.inf, math.inf


def told(run: Run, sizes: Sizes, name: str) -> Arrays:
    """Of each certain critical point: its kind, and whether the loss falls after small kicks.

    kind: 0 positive definite, 1 a negative eigenvalue, 2 zeros and no negative one. The linear
    networks' θ = 0 is looked at besides: all of its curvatures but those of the output are zero.
    """
    on = setting(name)
    found = points.sure(points.found(run, sizes, name))
    theta, values = found["theta"], found["eigenvalues"]
    ends = run.arrays(
        f"minima/{name}",
        (on.words, sizes.descents, sizes.iterations),
        lambda: points.descents(on, sizes),
    )
    minima = points.sure(ends)
    theta, values = torch.cat([theta, minima["theta"]]), torch.cat([values, minima["eigenvalues"]])
    if on.activation == "identity":
        zero = torch.zeros(1, theta.shape[1], dtype=torch.float64)
        theta = torch.cat([theta, zero])
        values = torch.cat([values, torch.linalg.eigvalsh(on.hessians(zero))])
    key = (on.words, theta.norm(dim=1).tolist(), sizes.kicks, "or escape")
    falls = run.arrays(f"kicked/{name}", key, lambda: {"fall": _fall(on, theta, values, sizes)})
    kind = torch.where(finder.index(values) > 0, 1, torch.where(finder.zeros(values) > 0, 2, 0))
    return {"kind": kind, **falls}


def _fall(on: Setting, theta: Tensor, values: Tensor, sizes: Sizes) -> Tensor:
    """How far below the point the loss gets nearby, of its loss.

    By some steps of descent from kicks of 0.03, or by hs.escape where it proves a way down.
    """
    generator = torch.Generator().manual_seed(12)
    many = theta.repeat(sizes.kicks, 1)
    many = many + 0.03 * _directions(many, generator)
    lr = (RATE / values.abs().amax(1)).repeat(sizes.kicks)[:, None]
    for _ in range(min(500, sizes.escape_steps)):
        many = many - lr * on.gradients(many)
    loss = on.losses(theta)
    kicked = loss - on.losses(many).reshape(sizes.kicks, -1).amin(0)
    escaped = torch.tensor([hs.escape(on.problem(point), seed=0).measured for point in theta])
    return torch.maximum(kicked, escaped.double()) / loss.clamp(min=1e-12)

"""Curves of low loss between two solutions, which a straight line may not show."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hesscope import probes
from hesscope.landscape.ends import EndLike, end_of
from hesscope.landscape.lines import interpolate, line_along
from hesscope.landscape.matching import match_units
from hesscope.landscape.statistics import RECOMPUTED, Between, normalisations
from hesscope.problem.calls import NonFiniteLossError
from hesscope.problem.problem import Problem
from hesscope.results.paths import LossPath
from hesscope.system import collectives, progress
from hesscope.system.contexts import public

KINDS = ("bezier", "chain")
PIECES = 200  # straight ones, by which the length of a curve is measured
Basis = Callable[[float], Tensor]  # t -> weights of the points (num_bends + 2,)


@public
def loss_path(
    problem: Problem,
    theta_a: EndLike,
    theta_b: EndLike,
    *,
    kind: str = "bezier",
    num_bends: int = 1,
    num_steps: int = 400,
    lr: float = 0.01,
    num_points: int = 51,
    match: bool = False,
    statistics: str = RECOMPUTED,
    test: Any = None,
    seed: int = 0,
) -> LossPath:
    """A curve between two points along which the loss is low, beside the straight line.

    Solutions of different runs are often not connected by a line but by a curve (Freeman and Bruna
    2017; Garipov et al. 2018). Its bends are trained by Adam on E_t L(φ(t)), t uniform in [0, 1],
    a batch and a t for each step: a Bézier curve with the bends as control points, or a chain of
    straight pieces through them. A barrier that is left is an upper bound of the lowest; none is a
    proof of a connection, up to what `missed` says between the points.

    With `match` the units of the second network are permuted first to match those of the first
    (Ainsworth et al. 2023), so that "no line" is not mistaken for "no path": the network is the
    same, its line often lower, and the curve goes there.

    Running statistics are those of each point of its own, as in `hs.interpolate`; while the curve
    is trained, batches are normalised by themselves.

    Args:
        problem: whose loss is measured; its model comes back as it was.
        theta_a: t = 0, as for `hs.interpolate`.
        theta_b: t = 1.
        kind: "bezier" or "chain".
        num_bends: points that are trained.
        num_steps: of training, each a gradient on one batch; 0 leaves the curve straight.
        lr: of Adam, falling to zero as a cosine.
        num_points: at which the losses of line and curve are measured.
        match: permute units first; needs SciPy.
        statistics: "recomputed", "interpolated" or "fixed".
        test: other data, on which the losses are measured too.
        seed: of t.

    Raises:
        ValueError: if an end does not fit, or a number or a kind is none.

    >>> import torch, hesscope as hs
    >>> def ring(t):  # minima on a circle, a hill in it
    ...     return (t.square().sum() - 1) ** 2
    >>> plane = hs.Problem.from_function(ring, torch.zeros(2).double())
    >>> ends = torch.tensor([1.0, 0.0]), torch.tensor([-0.9, (1 - 0.81) ** 0.5])
    >>> found = hs.loss_path(plane, *ends, kind="chain", num_bends=5, lr=0.05)
    >>> round(found.line.barrier, 1), found.curve.barrier < 0.05
    (0.9, True)
    """
    _check(kind, num_bends, num_steps, lr)
    straight = interpolate(problem, theta_a, theta_b, num_points, statistics=statistics, test=test)
    a, b = end_of(problem, theta_a, "theta_a"), end_of(problem, theta_b, "theta_b")
    permuted: tuple[str, ...] = ()
    matched = None
    between = Between.of(problem, a, b, statistics)
    if match:
        b, permuted = match_units(problem, between.a, between.b)
        between = Between.of(problem, between.a, b, statistics)
        matched = _straight(between, num_points, test)
    basis = _basis(kind, num_bends)
    bends, training = _trained(between, basis, num_bends, num_steps, lr, seed)
    points = torch.stack([between.a.theta, *bends, between.b.theta])

    def position(t: float) -> Tensor:
        if t in (0.0, 1.0):
            return points[0] if t == 0 else points[-1]
        return basis(t).to(points) @ points

    curve = line_along(between, position, _length(position), num_points, test, "loss along a curve")
    return LossPath(
        straight, matched, curve, kind, bends, between.b.theta, permuted, training, num_steps,
        problem.facts(),
    )  # fmt: skip


def _check(kind: str, num_bends: int, num_steps: int, lr: float) -> None:
    if kind not in KINDS:
        msg = f"kind={kind!r} is neither 'bezier' nor 'chain'."
        raise ValueError(msg)
    if num_bends < 1 or num_steps < 0 or not (math.isfinite(lr) and lr > 0):
        msg = f"num_bends={num_bends}, num_steps={num_steps}, lr={lr}; give positive numbers."
        raise ValueError(msg)


def _straight(between: Between, num_points: int, test: Any) -> Any:
    """The line between the ends as they are now."""
    a, b = between.a.theta, between.b.theta
    length = float((b.double() - a.double()).norm())
    return line_along(
        between, lambda t: torch.lerp(a, b, t), length, num_points, test, "loss along a line"
    )


def _basis(kind: str, num_bends: int) -> Basis:
    """The weights of the points at t: Bernstein's polynomials, or hats.

    >>> _basis("bezier", 1)(0.5), _basis("chain", 1)(0.25)
    (tensor([0.2500, 0.5000, 0.2500]...), tensor([0.5000, 0.5000, 0.0000]...))
    """
    degree = num_bends + 1
    places = torch.arange(degree + 1, dtype=torch.float64)
    counts = torch.tensor([math.comb(degree, i) for i in range(degree + 1)], dtype=torch.float64)

    def bernstein(t: float) -> Tensor:
        return counts * t**places * (1 - t) ** (degree - places)

    def hats(t: float) -> Tensor:
        return (1 - (t * degree - places).abs()).clamp(min=0)

    return bernstein if kind == "bezier" else hats


def _trained(
    between: Between, basis: Basis, num_bends: int, num_steps: int, lr: float, seed: int
) -> tuple[Tensor, Tensor]:
    """The bends (num_bends, n) after training, and the loss of each step."""
    a, b = between.a.theta, between.b.theta
    shares = torch.linspace(0, 1, num_bends + 2, dtype=torch.float64)[1:-1].to(a)
    bends = torch.lerp(a, b, shares[:, None]).requires_grad_()
    optimiser = torch.optim.Adam([bends], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(num_steps, 1))
    generator = torch.Generator().manual_seed(probes.key(seed, "times on a path"))
    losses = torch.full((num_steps,), torch.nan, dtype=torch.float64)
    for i, part in zip(range(num_steps), _batches(between.problem), strict=False):
        t = float(torch.rand((), generator=generator, dtype=torch.float64))
        weights = basis(t).to(a)
        theta = weights[0] * a + weights[-1] * b + weights[1:-1] @ bends.detach()
        there = part.at(theta)
        try:
            gradient = there.gradient()
        except NonFiniteLossError:  # this step is left out, and its loss stays NaN
            continue
        losses[i] = there.loss_at(theta)
        bends.grad = weights[1:-1, None] * gradient
        optimiser.step()
        schedule.step()
        progress.report("training a curve", i + 1, num_steps)
    return bends.detach(), losses


def _batches(problem: Problem) -> Iterator[Problem]:
    """The problem on one batch after the other, without end.

    Raises:
        ValueError: if processes share the data.
    """
    collectives.refuse_several("training a curve")
    own = copy.copy(problem)
    own.training = problem.training or bool(normalisations(problem.model))
    parts = None
    if problem.batches.cached:
        parts = [own.with_batches([batch.content]) for batch in problem.batches]
    while True:
        if parts is not None:
            yield from parts
        else:
            yield from (own.with_batches([batch.content]) for batch in problem.batches)


def _length(position: Callable[[float], Tensor]) -> float:
    points = (position(i / PIECES).double() for i in range(PIECES + 1))
    return sum(float((q - p).norm()) for p, q in pairwise(points))

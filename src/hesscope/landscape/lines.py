"""The loss on the straight line between two points, and the barrier that it meets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.landscape.ends import EndLike, end_of
from hesscope.landscape.statistics import RECOMPUTED, Between
from hesscope.problem.problem import Problem
from hesscope.results.landscape import LossLine
from hesscope.system import progress
from hesscope.system.contexts import public


@public
def interpolate(
    problem: Problem,
    theta_a: EndLike,
    theta_b: EndLike,
    num_points: int = 51,
    *,
    statistics: str = RECOMPUTED,
    test: Any = None,
) -> LossLine:
    """The mean loss at theta_a + t (theta_b - theta_a), t = 0 to 1 in equal steps, and its barrier.

    The barrier is max_t L(t) - [(1 - t) L(0) + t L(1)] over the points (Entezari et al. 2022,
    section 2; Goodfellow, Vinyals and Saxe 2015 look at the line): 0 for a convex loss, never
    below 0, off by about `rounding`. Between inner points it may be higher by at most half the
    largest second difference, `missed`, where the loss is concave there and in the cells on either
    side, kinks included. Costs `num_points` losses over all data and no derivative.

    **Running statistics** of BatchNorm belong to the weights, so each point gets its own. Those of
    an end are its own where they are known: of a network, a problem, a state dict, or of the vector
    `problem.theta`. Between them they are recomputed on the data, in a pass with these layers in
    training mode, or interpolated with the parameters, or fixed at the problem's own, ends
    included. An end of unknown statistics has them recomputed. `jumps` says how far the recomputed
    statistics move the loss of the ends: a barrier lower than that is not told from it. It costs a
    forward pass over all data for each point, and two points.

    A network that was pruned by another mask than the other end is met in the weights that act.
    A loss that is infinite or NaN does not stop the line: it is recorded as it is. Permuting hidden
    units leaves a network what it was and moves theta, so a barrier between two networks does not
    say that no other path is free of one: `hs.loss_path`.

    Args:
        problem: whose loss is measured; its model comes back as it was.
        theta_a: (n,), such as `problem.theta` after one training run, or a problem, network or
            state dict; t = 0.
        theta_b: the same after another; t = 1.
        num_points: how many points, both ends included.
        statistics: "recomputed", "interpolated" or "fixed".
        test: other data, as for `Problem`, on which the loss is measured too.

    Raises:
        ValueError: if an end is not finite or does not fit, or num_points is below 3, or statistics
            are to be interpolated that are not known.

    >>> import torch, hesscope as hs
    >>> start = torch.zeros(1).double()
    >>> wells = hs.Problem.from_function(lambda x: (x**2 - 1).square().sum(), start)
    >>> line = hs.interpolate(wells, torch.tensor([-1.0]), torch.tensor([1.0]))
    >>> line.barrier, line.barrier_at  # (x² - 1)² between its minima ± 1
    (1.0, 0.5)
    """
    a, b = end_of(problem, theta_a, "theta_a"), end_of(problem, theta_b, "theta_b")
    if isinstance(num_points, bool) or not isinstance(num_points, int) or num_points < 3:
        msg = f"num_points={num_points}; a line needs both ends and a point between: 3 or more."
        raise ValueError(msg)
    between = Between.of(problem, a, b, statistics)
    a, b = between.a, between.b

    def position(t: float) -> Tensor:
        return torch.lerp(a.theta, b.theta, t)  # exact at both ends

    length = float((b.theta.double() - a.theta.double()).norm())
    return line_along(between, position, length, num_points, test, "loss along a line")


def line_along(
    between: Between,
    position: Callable[[float], Tensor],
    length: float,
    num_points: int,
    test: Any,
    label: str,
) -> LossLine:
    """The loss at theta = position(t) on a way between two ends, of this length."""
    problem = between.problem
    points = torch.linspace(0, 1, num_points, dtype=torch.float64)
    losses, tested = torch.empty_like(points), torch.empty_like(points)
    held_out = None if test is None else problem.with_batches(test)
    for i, t in enumerate(points.tolist()):
        there = between.at(position(t), t)
        losses[i] = there.loss_at(there.theta)
        if held_out is not None:
            tested[i] = there.on(held_out).loss_at(there.theta)
        progress.report(label, i + 1, num_points)
    jumps, extra = end_jumps(between, losses)
    return LossLine(
        points=points,
        losses=losses,
        **barrier_of(problem, points, losses),
        distance=length,
        num_evaluations=num_points * between.passes
        + extra
        + (num_points if test is not None else 0),
        facts=problem.facts(),
        statistics=between.statistics,
        jumps=jumps,
        test_losses=None if held_out is None else tested,
    )


def end_jumps(between: Between, losses: Tensor) -> tuple[tuple[float, ...], int]:
    """Loss of each end with recomputed statistics less that with its own, and the cost of that."""
    if between.statistics != RECOMPUTED:
        return (), 0
    jumps = []
    for end, t, loss in ((between.a, 0.0, losses[0]), (between.b, 1.0, losses[-1])):
        known = end.buffers is not None
        there = between.recomputed(end.theta, t)
        jumps.append(there.loss_at(end.theta) - float(loss) if known else 0.0)
    return tuple(jumps), 4


def barrier_of(problem: Problem, points: Tensor, losses: Tensor) -> dict[str, float]:
    """The fields of a line that say how high its barrier is, where, and how well that is known."""
    barrier, where, missed = _barrier(points, losses)
    largest = float(losses[losses.isfinite()].abs().max()) if bool(losses.isfinite().any()) else 0.0
    noise = rounding.loss_change_noise(problem.dtype, largest)
    return {"barrier": barrier, "barrier_at": where, "missed": missed, "rounding": noise}


def _barrier(points: Tensor, losses: Tensor) -> tuple[float, float, float]:
    """The largest excess over the chord, its t, and how much it may be higher between points."""
    ends_known = bool(losses[[0, -1]].isfinite().all())
    if not ends_known or bool((losses.isnan() | (losses == -math.inf)).any()):
        return math.nan, math.nan, math.nan
    excess = losses - torch.lerp(losses[0], losses[-1], points)
    highest = int(excess.argmax())
    if not bool(losses.isfinite().all()):
        return math.inf, float(points[highest]), 0.0
    steepest = float((-losses.diff(n=2)).max().clamp(min=0))  # where the loss is concave
    return float(excess[highest]), float(points[highest]), steepest / 2

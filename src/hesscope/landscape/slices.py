"""The loss on the straight line between two points, and the barrier that it meets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.problem.parameters import finite_vector
from hesscope.problem.problem import Problem
from hesscope.results.landscape import LossLine
from hesscope.system import progress


def interpolate(
    problem: Problem, theta_a: Tensor, theta_b: Tensor, num_points: int = 51
) -> LossLine:
    """The mean loss at theta_a + t (theta_b - theta_a), t = 0 to 1 in equal steps, and its barrier.

    The barrier is max_t L(t) - [(1 - t) L(0) + t L(1)] over the points (Entezari et al. 2022,
    section 2; Goodfellow, Vinyals and Saxe 2015 look at the line): 0 for a convex loss, never
    below 0, off by about `rounding`. Between inner points it may be higher by at most half the
    largest second difference, `missed`, where the loss is concave there and in the cells on either
    side, kinks included. Costs `num_points` losses over all data and no derivative.

    A loss that is infinite or NaN does not stop the line: it is recorded as it is. Permuting hidden
    units leaves a network what it was and moves theta, so a barrier between two networks does not
    say that no other path is free of one.

    Args:
        problem: whose loss is measured; its model comes back as it was.
        theta_a: (n,), such as `problem.theta` after one training run; t = 0.
        theta_b: (n,), after another; t = 1.
        num_points: how many points, both ends included.

    Raises:
        ValueError: if a theta is not finite or not of length n, or num_points is below 3.

    >>> import torch, hesscope as hs
    >>> start = torch.zeros(1).double()
    >>> wells = hs.Problem.from_function(lambda x: (x**2 - 1).square().sum(), start)
    >>> line = hs.interpolate(wells, torch.tensor([-1.0]), torch.tensor([1.0]))
    >>> line.barrier, line.barrier_at  # (x² - 1)² between its minima ± 1
    (1.0, 0.5)
    """
    start, end = (
        finite_vector(theta, problem.n, problem.dtype, problem.device, name)
        for theta, name in ((theta_a, "theta_a"), (theta_b, "theta_b"))
    )
    if isinstance(num_points, bool) or not isinstance(num_points, int) or num_points < 3:
        msg = f"num_points={num_points}; a line needs both ends and a point between: 3 or more."
        raise ValueError(msg)
    points = torch.linspace(0, 1, num_points, dtype=torch.float64)
    losses = torch.empty_like(points)
    for i, t in enumerate(points.tolist()):
        losses[i] = problem.loss_at(torch.lerp(start, end, t))  # lerp is exact at both ends
        progress.report("loss along a line", i + 1, num_points)
    barrier, where, missed = _barrier(points, losses)
    largest = float(losses[losses.isfinite()].abs().max()) if bool(losses.isfinite().any()) else 0.0
    return LossLine(
        points=points,
        losses=losses,
        barrier=barrier,
        barrier_at=where,
        missed=missed,
        rounding=rounding.loss_change_noise(problem.dtype, largest),
        distance=float((end.double() - start.double()).norm()),
        num_evaluations=num_points,
        facts=problem.facts(),
    )


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

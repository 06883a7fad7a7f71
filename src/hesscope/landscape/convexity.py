"""Looks for a proof of non-convexity at random points around the parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesscope import probes, rounding
from hesscope.curvature.hessian import Hessian
from hesscope.curvature.shared import shared_seed
from hesscope.estimators.density import spectral_density
from hesscope.problem.problem import Problem
from hesscope.results.convexity import ConvexityProbes
from hesscope.system import progress

UNKNOWN = (math.nan, -math.inf, math.nan, math.nan)


def negative_curvature_probes(
    problem: Problem,
    num_points: int = 4,
    radius: float = 0.1,
    *,
    max_matvecs: int = 40,
    seed: int | None = None,
    delta: float = 1e-3,
) -> ConvexityProbes:
    """λmin at points on a sphere around θ, and the loss halfway to each against the chord.

    The points are θ + r u with u uniform on the unit sphere and r = radius·‖θ‖ (`radius` itself at
    θ = 0). A convex loss has no v'Hv < 0 at any of them, and L(θ + r u/2) is never above the mean
    of L(θ) and L(θ + r u) (Boyd and Vandenberghe 2004, section 3.1). Either settles the question;
    finding neither settles nothing.

    Args:
        problem: whose loss is looked at; its model comes back as it was.
        num_points: on the sphere.
        radius: relative to the length of θ.
        max_matvecs: for each point.
        seed: of points and start vectors; a fresh one by default.
        delta: probability that one of the lower bounds is wrong.

    Costs at most num_points·max_matvecs matvecs and 2 num_points + 1 losses. A point where the loss
    is not finite is recorded as NaN.

    Raises:
        ValueError: if num_points, radius or max_matvecs is out of range.
        RuntimeError: if the loss at θ is not finite.

    >>> import torch, hesscope as hs
    >>> start = torch.tensor([1.0, 1.0]).double()
    >>> wells = hs.Problem.from_function(lambda t: (t[0] ** 2 - 1) ** 2 + t[1] ** 2, start)
    >>> bool(negative_curvature_probes(wells, 8, radius=1.0).negative.any())
    True
    """
    _check(num_points, radius, max_matvecs)
    seed = shared_seed(seed)
    theta = problem.theta.double()
    distance = radius * (float(theta.norm()) or 1.0)
    here = problem.loss()
    ends, sags, spent = [], [], 0
    for i in range(num_points):
        progress.report("points looked at", i, num_points)
        u = probes.gaussian(problem.n, probes.key(seed, "point", i), device=problem.device)
        u *= distance / u.norm()
        end, middle = _loss_at(problem, theta + u), _loss_at(problem, theta + u / 2)
        allowed = rounding.sag_noise(problem.dtype, _largest(here, middle, end))
        sags.append((middle - (here + end) / 2, allowed))
        found, cost = UNKNOWN, 0
        if math.isfinite(end):
            own = probes.key(seed, "density at a point", i)
            found, cost = _ends(problem.at(theta + u), max_matvecs, own, delta / num_points)
        ends.append(found)
        spent += cost
    lambda_min, lower, lambda_max, noise = torch.tensor(ends, dtype=torch.float64).unbind(1)
    sag, sag_rounding = torch.tensor(sags, dtype=torch.float64).unbind(1)
    return ConvexityProbes(
        distance=distance,
        lambda_min=lambda_min,
        lower=lower,
        lambda_max=lambda_max,
        noise=noise,
        sag=sag,
        sag_rounding=sag_rounding,
        num_matvecs=spent,
        num_losses=2 * num_points + 1,
        delta=delta,
        facts=problem.facts(),
    )


def _ends(
    problem: Problem, max_matvecs: int, seed: int, delta: float
) -> tuple[tuple[float, float, float, float], int]:
    """λmin, its lower bound, λmax and the rounding noise at one point, and the matvecs spent."""
    density = spectral_density(Hessian(problem), max_matvecs, seed=seed, delta=delta)
    lowest, highest = float(density.nodes[0]), float(density.nodes[-1])
    return (lowest, density.lower, highest, density.rounding), density.num_matvecs


def _loss_at(problem: Problem, theta: Tensor) -> float:
    """The mean loss, NaN where it is not finite."""
    loss = problem.loss_at(theta)
    return loss if math.isfinite(loss) else math.nan


def _largest(*losses: float) -> float:
    return max(abs(loss) for loss in losses)


def _check(num_points: int, radius: float, max_matvecs: int) -> None:
    """Refuses what cannot be probed.

    Raises:
        ValueError: if an argument is out of range.
    """
    if num_points < 1 or max_matvecs < 4:
        msg = (
            f"num_points={num_points} and max_matvecs={max_matvecs}: give at least 1 point and "
            "4 matvecs for each; the usual ones are 4 and 40."
        )
        raise ValueError(msg)
    if not 0 < radius < math.inf:
        msg = f"radius={radius} is no positive length relative to θ; the usual one is 0.1."
        raise ValueError(msg)

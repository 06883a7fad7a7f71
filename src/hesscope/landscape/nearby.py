"""Rises of the loss near θ without climbing: averages, single ascent steps, a critical step."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import torch
from torch import Tensor

from hesscope import probes
from hesscope.landscape.climb import Cost
from hesscope.landscape.height import height
from hesscope.problem.examples import num_examples, take
from hesscope.problem.problem import Problem
from hesscope.system import collectives

PRECISION = 1 / 16  # of a critical step, relative
WIDEST = 40  # doublings or halvings from the first guess


def average_rise(
    problem: Problem, radius: float, num_pairs: int, seed: int, loss: float, cost: Cost
) -> tuple[float, float]:
    """(mean, standard error) of L(θ + δ) - L(θ), δ uniform in the ball of this radius.

    From pairs δ, -δ, whose odd terms cancel. For a quadratic it is radius² tr H / (2 (n + 2)).
    """
    theta, rises = problem.theta, []
    generator = torch.Generator().manual_seed(probes.key(seed, "distances"))
    for i in range(num_pairs):
        z = probes.gaussian(
            problem.n,
            probes.key(seed, "point nearby", i),
            dtype=problem.dtype,
            device=problem.device,
        )
        u = float(torch.rand((), generator=generator, dtype=torch.float64))
        delta = z * (radius * u ** (1 / problem.n) / float(z.norm()))
        both = [height(problem, theta + sign * delta) for sign in (1, -1)]
        rises.append(fmean(both) - loss)
        cost.losses += 2
    error = stdev(rises) / math.sqrt(num_pairs) if num_pairs > 1 else math.inf
    return fmean(rises), error


def step_rise(
    problem: Problem, radius: float, m: int, num_parts: int, adaptive: bool, cost: Cost
) -> tuple[float, float, int]:
    """(mean, standard error, parts) of L_S(θ + δ_S) - L_S(θ) over parts S of m examples.

    Over no parts where processes share the data.

    δ = ρ g/‖g‖ (Foret et al. 2021, equation 2) or, adaptive, ρ T² g/‖T g‖ with T = |θ| (Kwon et al.
    2021, equation 5), g the gradient of the part: the single step that SAM and ASAM take.
    """
    rises = []
    for part in _parts(problem, m, num_parts):
        with_part = problem.with_batches([part])
        g, loss = with_part.gradient(), with_part.loss()
        size = problem.theta.abs() if adaptive else torch.ones_like(g)
        norm = float((size * g).norm())
        if norm > 0:
            delta = (radius / norm) * size.square() * g
            rises.append(height(with_part, problem.theta + delta) - loss)
        else:
            rises.append(0.0)
        cost.gradients += with_part.num_items / problem.num_items
        cost.losses += 2 * with_part.num_items / problem.num_items
    if not rises:
        return math.nan, math.nan, 0
    error = stdev(rises) / math.sqrt(len(rises)) if len(rises) > 1 else math.inf
    return fmean(rises), error, len(rises)


def critical_step(
    problem: Problem, direction: Tensor, loss: float, cost: Cost
) -> tuple[float, float]:
    """(t, half width): the shortest step t along a direction at which the loss is above L(θ).

    By doubling or halving from t = 1 and then bisection, to a sixteenth of t; a second interval of
    rise and fall between two of the points is not seen. Infinite if no step raises the loss.
    """
    theta = problem.theta

    def rises(t: float) -> bool:
        cost.losses += 1
        return height(problem, theta + t * direction) > loss

    low, high = 0.0, math.inf
    t = 1.0
    for _ in range(WIDEST):
        if rises(t):
            high = t
            if low > 0:
                break
            t /= 2
        else:
            low = t
            if high < math.inf:
                break
            t *= 2
    if not 0 < low < high < math.inf:
        return (math.inf, math.nan) if math.isinf(high) else (math.nan, math.nan)
    while high - low > PRECISION * low:
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) else (middle, high)
    return (low + high) / 2, (high - low) / 2


def _parts(problem: Problem, m: int, num_parts: int) -> list[object]:
    """Contents of m examples each, in the order of the data; whole batches where they are one."""
    parts: list[object] = []
    if collectives.num_processes() > 1:  # each would look at parts of its own
        return parts
    for batch in problem.batches:
        try:
            num = num_examples(batch.content)
        except ValueError:  # its examples cannot be told apart
            parts.append(batch.content)
            continue
        whole = max(num - num % m, m) if num >= m else 0
        parts += [take(batch.content, slice(i, i + m)) for i in range(0, whole, m)]
        if len(parts) >= num_parts:
            break
    return parts[:num_parts]

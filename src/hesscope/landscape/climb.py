"""The highest loss in a convex set around θ, climbed for by conditional gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.landscape.height import height
from hesscope.problem.calls import NonFiniteLossError
from hesscope.problem.problem import Problem

Farthest = Callable[[Tensor], Tensor]  # g -> the point of the set that lies farthest along g
HALVINGS = 4  # of a step that does not raise the loss, before a climb ends


@dataclass
class Cost:
    """What has been spent, over all data."""

    gradients: float = 0
    losses: float = 0


@dataclass(frozen=True)
class Summit:
    """The highest loss that was found, and those of all climbs, highest first."""

    loss: float
    heights: tuple[float, ...]

    @property
    def spread(self) -> float:
        """How much lower the second best climb ended: no bound, but a hint."""
        return self.heights[0] - self.heights[1] if len(self.heights) > 1 else 0.0


def climb(
    problem: Problem, farthest: Farthest, starts: Iterable[Tensor], steps: int, cost: Cost
) -> Summit:
    """The highest loss at θ + δ, δ in a convex set, from several starts in it.

    Each step goes towards the point of the set that lies farthest along the gradient (Frank and
    Wolfe 1956), all the way where that raises the loss, as it does for a convex one, else half, and
    so on. What is found is a lower bound of the maximum, up to rounding; no climb proves more.
    """
    theta, tops = problem.theta, []
    for start in starts:
        delta, best = start, height(problem, theta + start)
        cost.losses += 1
        for _ in range(steps):
            moved, found = _step(problem, theta, delta, best, farthest, cost)
            if found <= best + rounding.loss_change_noise(problem.dtype, abs(best)):
                break
            delta, best = moved, found
        tops.append(best)
    tops.sort(reverse=True)
    return Summit(tops[0], tuple(tops))


def _step(
    problem: Problem, theta: Tensor, delta: Tensor, best: float, farthest: Farthest, cost: Cost
) -> tuple[Tensor, float]:
    """The best of a step all the way, half, ...: where it went, and the loss there."""
    cost.gradients += 1
    try:
        target = farthest(problem.at(theta + delta).gradient())
    except NonFiniteLossError:  # it cannot be climbed higher
        return delta, best
    share = 1.0
    for _ in range(HALVINGS):
        moved = torch.lerp(delta, target, share)
        cost.losses += 1
        found = height(problem, theta + moved)
        if found > best:
            return moved, found
        share /= 2
    return delta, best

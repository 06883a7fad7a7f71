"""The loss along a line between two points, with the barrier that separates them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Path:
    """The mean loss at theta_a + t (theta_b - theta_a) for t from 0 to 1, and its barrier.

    The barrier is the largest excess of the loss over the chord, the straight line between the two
    end losses. It is at least 0, which the ends reach; infinite if a loss between finite ends is;
    NaN, as is its place, if a loss is NaN or -inf, or an end is infinite.
    """

    points: Tensor  # (num_points,) float64, t from 0 to 1
    losses: Tensor  # (num_points,) float64, infinite or NaN where the model gave that
    barrier: float  # in units of the loss
    barrier_at: float  # the t where it was found; 0 if there is none
    missed: float  # how much higher it may be between the points; see `hs.interpolate`
    rounding: float  # how far off it is at the points, about
    distance: float  # ‖theta_b - theta_a‖
    num_evaluations: int  # cost: losses over all data
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def chord(self) -> Tensor:
        """(num_points,) the straight line between the two end losses.

        >>> t, losses = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([2.0, 5.0, 4.0])
        >>> Path(t, losses, 2.0, 0.5, 0.0, 0.0, 1.0, 3).chord
        tensor([2., 3., 4.])
        """
        return torch.lerp(self.losses[0], self.losses[-1], self.points)

    def __str__(self) -> str:
        ends = f"{float(self.losses[0]):.6g} to {float(self.losses[-1]):.6g}"
        infinite = int((~self.losses.isfinite()).sum())
        lowest, highest = _extreme(self.losses, -1), _extreme(self.losses, 1)
        lines = [
            f"loss at {len(self)} points of a line of length {self.distance:.4g}, "
            f"{self.num_evaluations} evaluations",
            f"  ends {ends}   lowest {lowest}   highest {highest}",
            f"  {self._barrier_line()}",
        ]
        if infinite:
            lines.append(f"  {infinite} of the losses are infinite or NaN")
        return "\n".join(lines)

    def _barrier_line(self) -> str:
        if math.isnan(self.barrier):
            return "barrier unknown: a loss is NaN or -inf, or an end is infinite"
        if math.isinf(self.barrier):
            return f"barrier infinite, first at t = {self.barrier_at:.4g}"
        more = f"about {self.missed:.1e} more between the points at most"
        if self.barrier <= self.rounding:
            return f"no barrier over the chord (to within {self.rounding:.1e}; {more})"
        return f"barrier {self.barrier:.6g} over the chord, at t = {self.barrier_at:.4g} ({more})"


def _extreme(losses: Tensor, sign: int) -> str:
    """The largest (sign 1) or smallest (sign -1) of the losses that are numbers."""
    known = losses[~losses.isnan()]
    return f"{float(sign * (sign * known).max()):.6g}" if len(known) else "nan"

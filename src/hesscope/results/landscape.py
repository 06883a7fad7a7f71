"""The loss along lines: between two points with its barrier, and down from a saddle."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hesscope.results import html
from hesscope.results.estimate import plus_minus
from hesscope.results.result import Columns, Result
from hesscope.results.spectrum import Certificate


@dataclass(frozen=True)
class LossLine(Result):
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
    statistics: str = "none"  # running ones between the ends: recomputed, interpolated, fixed
    jumps: tuple[float, ...] = ()  # how recomputed statistics change the losses of the two ends
    test_losses: Tensor | None = None  # (num_points,) float64, on other data

    def __len__(self) -> int:
        return len(self.points)

    @property
    def chord(self) -> Tensor:
        """(num_points,) the straight line between the two end losses.

        >>> t, losses = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([2.0, 5.0, 4.0])
        >>> LossLine(t, losses, 2.0, 0.5, 0.0, 0.0, 1.0, 3).chord
        tensor([2., 3., 4.])
        """
        return torch.lerp(self.losses[0], self.losses[-1], self.points)

    def columns(self) -> Columns:
        """A row for each point."""
        tested = {} if self.test_losses is None else {"test loss": self.test_losses}
        return {"t": self.points, "loss": self.losses, **tested}

    def picture(self) -> str:
        """The loss along the line."""
        return html.line(self.points.tolist(), self.losses.tolist(), ("t = 0", "t = 1"))

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
        return "\n".join([*lines, *self._test_line(), *self._statistics_line()])

    def _test_line(self) -> list[str]:
        if self.test_losses is None:
            return []
        ends = f"{float(self.test_losses[0]):.6g} to {float(self.test_losses[-1]):.6g}"
        highest = _extreme(self.test_losses, 1)
        return [f"  on test data: ends {ends}   highest {highest}"]

    def _statistics_line(self) -> list[str]:
        if self.statistics == "none":
            return []
        text = f"  running statistics: {self.statistics}"
        if self.jumps:
            a, b = self.jumps
            text += f"; recomputed at the ends too, their losses change by {a:+.2g} and {b:+.2g}"
        return [text]

    def _barrier_line(self) -> str:
        if math.isnan(self.barrier):
            return "barrier unknown: a loss is NaN or -inf, or an end is infinite"
        if math.isinf(self.barrier):
            return f"barrier infinite, first at t = {self.barrier_at:.4g}"
        more = f"about {self.missed:.1e} more between the points at most"
        if self.barrier <= self.rounding:
            return f"no barrier over the chord (to within {self.rounding:.1e}; {more})"
        return f"barrier {self.barrier:.6g} over the chord, at t = {self.barrier_at:.4g} ({more})"


@dataclass(frozen=True)
class Escape(Result):
    """A step down along negative curvature, or why there is none.

    `found` says that v'Hv < 0 was proven: by more than the rounding error of a fresh product. Then
    `theta` is the best point that the line search met, and `length` is 0 if no step lowered the
    loss by more than its rounding. Without proof, theta is where the problem stood, and
    `certificate` says how negative the curvature of any other direction may be.
    """

    found: bool
    theta: Tensor  # (n,) the parameters after the step
    direction: Tensor  # (n,) v, a unit vector, with the sign in which the step was made
    curvature: float  # v'Hv from a fresh product; λmin is not above it
    residual: float  # ‖Hv - (v'Hv) v‖: an eigenvalue lies within this of the curvature
    rounding: float  # how far off the curvature is by rounding
    slope: float  # g'v
    length: float  # t of θ + t v
    predicted: float  # decrease -t g'v - t²/2 v'Hv of the quadratic model
    loss_before: float
    loss_after: float
    loss_rounding: float  # how far off a difference of the two losses is, about
    certificate: Certificate  # bounds on all eigenvalues
    num_matvecs: int
    num_gradients: int  # over all data
    num_evaluations: int  # losses over all data
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> float:
        """The decrease of the loss that the step brought; 0 without a step."""
        return self.loss_before - self.loss_after

    def __str__(self) -> str:
        curvature = plus_minus(self.curvature, self.rounding)
        cost = (
            f"{self.num_matvecs} matvecs, {self.num_gradients} gradient, "
            f"{self.num_evaluations} losses"
        )
        if not self.found:
            return "\n".join([f"no way down by curvature is proven ({cost})", *self._unproven()])
        first = f"negative curvature {curvature} is proven ({cost})"
        if self.length == 0:
            rounding = f"its rounding {self.loss_rounding:.1e}"
            return f"{first}\n  but no step along it lowers the loss by more than {rounding}"
        return "\n".join(
            [
                first,
                f"  a step of length {self.length:.4g} lowers the loss from {self.loss_before:.6g} "
                f"to {self.loss_after:.6g}",
                f"  decrease {plus_minus(self.measured, self.loss_rounding)}; "
                f"the quadratic model predicted {self.predicted:.4g}",
            ]
        )

    def _unproven(self) -> list[str]:
        c = self.certificate
        flattest = plus_minus(self.curvature, self.rounding)
        lines = [f"  lowest curvature found {flattest}; parameters unchanged"]
        lines.append(f"  no eigenvalue below {c.lower:.3g}, with probability {1 - c.delta:g}")
        if max(abs(c.lower), abs(c.upper)) <= self.rounding:
            lines.append("  the Hessian vanishes here: higher derivatives decide; try hs.kick")
        elif c.lower < min(self.curvature, 0.0) - 1e-3 * max(abs(c.lower), abs(c.upper)):
            lines.append("  undecided below the lowest found: raise max_matvecs")
        return lines


def _extreme(losses: Tensor, sign: int) -> str:
    """The largest (sign 1) or smallest (sign -1) of the losses that are numbers."""
    known = losses[~losses.isnan()]
    return f"{float(sign * (sign * known).max()):.6g}" if len(known) else "nan"

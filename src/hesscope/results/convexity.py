"""What was found at other points around θ: negative curvature, and chords below the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hesscope.results.result import Columns, Result


@dataclass(frozen=True)
class ConvexityProbes(Result):
    """The ends of the spectrum at points around θ, and the loss halfway to each of them.

    A convex loss has λmin >= 0 everywhere and lies below its chords: the sag
    L(middle) - [L(θ) + L(point)]/2 is never positive. A sag needs no second derivative, so it also
    sees curvature that sits in kinks. Entries are NaN where the loss is not finite.
    """

    distance: float  # of the points from θ
    lambda_min: Tensor  # (k,) float64: v'Hv of a unit vector, so the true λmin is not above
    lower: Tensor  # (k,) no eigenvalue lies below, with probability 1 - delta each
    lambda_max: Tensor  # (k,)
    noise: Tensor  # (k,) rounding noise of the products
    sag: Tensor  # (k,) in units of the loss
    sag_rounding: Tensor  # (k,)
    num_matvecs: int
    num_losses: int
    delta: float = 1e-3
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of points at which something could be measured."""
        return int((~self.lambda_min.isnan()).sum())

    @property
    def negative(self) -> Tensor:
        """(k,) bool: v'Hv < 0 beyond rounding at that point."""
        return self.lambda_min < -self.noise

    @property
    def above_chord(self) -> Tensor:
        """(k,) bool: the loss halfway lies above the chord beyond rounding."""
        return self.sag > self.sag_rounding

    @property
    def never_negative(self) -> bool:
        """Whether λmin is certified to be at least -1e-4 λmax at all points that were measured."""
        epsilon = torch.maximum(1e-4 * self.lambda_max.abs(), self.noise)
        known = ~self.lambda_min.isnan()
        return len(self) > 0 and bool((self.lower >= -epsilon)[known].all())

    @property
    def proof(self) -> str:
        """What proves that the loss is not convex, in words; empty if nothing does.

        >>> one = torch.ones(1).double()
        >>> ConvexityProbes(0.5, -one, -one, one, 1e-9 * one, 0 * one, 1e-9 * one, 20, 3).proof
        'negative curvature -1 at distance 0.5'
        """
        if bool(self.negative.any()):
            lowest = float(self.lambda_min[self.negative].min())
            return f"negative curvature {lowest:.3g} at distance {self.distance:.3g}"
        if bool(self.above_chord.any()):
            most = float(self.sag[self.above_chord].max())
            return f"the loss is {most:.2g} above a chord of length {self.distance:.3g}"
        return ""

    def columns(self) -> Columns:
        """A row for each point."""
        return {
            "λmin": self.lambda_min,
            "λmin at least": self.lower,
            "λmax": self.lambda_max,
            "above the chord": self.sag,
        }

    def __str__(self) -> str:
        known = self.lambda_min[~self.lambda_min.isnan()]
        lowest = float(known.min()) if len(known) else math.nan
        found = self.proof or "no proof of non-convexity"
        return (
            f"{len(self)} points at distance {self.distance:.4g}, {self.num_matvecs} matvecs, "
            f"{self.num_losses} losses: lowest curvature {lowest:.4g}; {found}"
        )

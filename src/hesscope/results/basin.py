"""How far the loss stays where it is: along flat, symmetric and random directions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hesscope.results.estimate import Interval, plus_minus
from hesscope.results.result import Columns, Result


@dataclass(frozen=True)
class Walk(Result):
    """The loss at growing distance along one direction or orbit, on both sides of θ.

    `width` is the distance at which it has risen by the basin's `rise` on the worse side, known to
    `width_error`; infinite where it has not within the radius.
    """

    name: str
    kind: str  # "flat", "symmetry", "random"
    distances: Tensor  # (num,) float64, ‖θ' - θ‖
    rises: Tensor  # (num, 2) float64, L - L(θ) on both sides
    width: float
    width_error: float
    curvature: float  # v'Hv of a unit vector; NaN for an orbit
    residual: float  # ‖Hv‖, from a fresh product; NaN for an orbit

    def __str__(self) -> str:
        far = float(self.distances[-1])
        worst = float(self.rises[self.rises.isfinite()].abs().max())
        if math.isinf(self.width):
            return f"{self.kind:<9} {self.name}: within {worst:.2g} of L up to {far:.3g}"
        width = plus_minus(self.width, self.width_error)
        bent = "" if math.isnan(self.residual) else f"  (‖Hv‖ = {self.residual:.2g})"
        return f"{self.kind:<9} {self.name}: width {width}{bent}"


@dataclass(frozen=True)
class Basin(Result):
    """How far flat is flat, and how much of it the symmetries of the network explain."""

    loss: float
    rise: float  # of the loss, at which a width is read
    radius: float  # how far was looked
    rounding: float  # how far off a difference of losses is, about
    walks: tuple[Walk, ...]
    tau: float  # |λ| below which an eigenvalue counts as zero
    num_flat: Interval | None  # eigenvalues within ± tau
    symmetries: tuple[str, ...]
    symmetry_dimensions: int  # exact zeros of the Hessian at a critical point that no data explains
    n: int
    num_matvecs: int
    num_evaluations: int
    facts: dict[str, Any] = field(default_factory=dict)

    def columns(self) -> Columns:
        """A row for each walk."""
        keys = ("kind", "name", "width", "width_error", "curvature", "residual")
        return {key: [getattr(walk, key) for walk in self.walks] for key in keys}

    def of_kind(self, kind: str) -> tuple[Walk, ...]:
        """The walks of one kind: flat, symmetry or random."""
        return tuple(walk for walk in self.walks if walk.kind == kind)

    def __str__(self) -> str:
        lines = [
            f"basin at loss {self.loss:.6g}: width where it rises by {self.rise:.3g}, up to "
            f"{self.radius:g} ({self.num_matvecs} matvecs, {self.num_evaluations} losses)"
        ]
        if self.num_flat is not None:
            curved = f"{self.n - self.num_flat.high:.0f} to {self.n - self.num_flat.low:.0f}"
            lines.append(
                f"  of n = {self.n} directions {curved} have |λ| above {self.tau:.2g}; symmetries "
                f"explain {self.symmetry_dimensions} of the others"
            )
        lines += [f"  symmetry: {name}" for name in self.symmetries]
        return "\n".join([*lines, *(f"  {walk}" for walk in self.walks)])

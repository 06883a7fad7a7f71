"""How far the quadratic model of a loss holds along a line, and what kinks hide from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hesscope.results.result import Columns, Result

TOLERATED = 0.1  # of the predicted change: up to here the quadratic model is said to hold


@dataclass(frozen=True)
class Smoothness(Result):
    """Derivatives at a point against differences over lengths h along a unit direction v.

    `curvature` is v'Hv by automatic differentiation, which never sees a kink (ReLU, max-pooling,
    hinge): it differentiates one smooth piece. `differences` are (g(θ+hv) - g(θ-hv))·v/2h, the mean
    curvature over the line of length 2h, kinks included. `remainders` are
    L(θ+hv) - L(θ) - h g·v - h²/2 v'Hv. Entries are NaN where the loss is not finite.
    """

    direction: str  # what v is
    step_length: float  # the length of the step that is of interest along v
    slope: float  # g·v
    curvature: float  # v'Hv
    radii: Tensor  # (k,) ascending, float64
    differences: Tensor  # (k,) in the units of the curvature
    difference_rounding: Tensor  # (k,) what rounding can do to them, about
    remainders: Tensor  # (k,) in units of the loss
    remainder_rounding: Tensor  # (k,)
    kinks: tuple[str, ...]  # operations with kinks behind the loss, as autograd names them
    num_gradients: int  # cost; a loss comes with each gradient for free
    num_matvecs: int
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.radii)

    @property
    def hidden_share(self) -> Tensor:
        """(k,) |difference - v'Hv| over the larger of the two sizes, 0 to 2; NaN in rounding.

        On a smooth loss it falls as h² (Taylor); where it does not, kinks are the cause.

        >>> one, zero = torch.ones(1).double(), torch.zeros(1).double()
        >>> Smoothness("g", 1.0, -1.0, 1.0, one, 4 * one, zero, zero, zero, (), 5, 1).hidden_share
        tensor([0.7500], dtype=torch.float64)
        """
        size = self.differences.abs().clamp(min=abs(self.curvature))
        share = (self.differences - self.curvature).abs() / size
        return torch.where(self.difference_rounding <= TOLERATED * size, share, math.nan)

    @property
    def relative_remainder(self) -> Tensor:
        """(k,) |remainder| over h|g·v| + h²/2|v'Hv|, the sizes of what was predicted.

        NaN in rounding.
        """
        known = self.remainder_rounding <= TOLERATED * self._predicted
        return torch.where(known, self.remainders.abs() / self._predicted, math.nan)

    @property
    def quadratic_radius(self) -> float:
        """The largest radius up to which all remainders are within 10 % of what was predicted.

        0 if none is; NaN if rounding leaves nothing to judge.
        """
        if not bool((self.remainder_rounding <= TOLERATED * self._predicted).any()):
            return math.nan
        allowed = TOLERATED * self._predicted + self.remainder_rounding
        holds = (self.remainders.abs() <= allowed).cummin(0).values  # NaN does not hold
        return float(self.radii[holds][-1]) if bool(holds.any()) else 0.0

    @property
    def _predicted(self) -> Tensor:
        h = self.radii
        return h * abs(self.slope) + h.square() / 2 * abs(self.curvature)

    def columns(self) -> Columns:
        """A row for each radius."""
        return {
            "radius": self.radii,
            "curvature over it": self.differences,
            "rounding": self.difference_rounding,
            "hidden share": self.hidden_share,
            "remainder": self.remainders,
            "remainder over prediction": self.relative_remainder,
        }

    def quantities(self) -> dict[str, Any]:
        """Slope and curvature at the point, and how far they tell the truth."""
        return {
            "along": self.direction,
            "length of the step": self.step_length,
            "slope": self.slope,
            "curvature": self.curvature,
            "quadratic within 10 % up to": self.quadratic_radius,
            "operations with kinks": ", ".join(self.kinks) or "none",
            "cost in gradients": self.num_gradients,
            "cost in products (matvecs)": self.num_matvecs,
        }

    def __str__(self) -> str:
        lines = [
            f"smoothness along {self.direction}, {self.num_gradients} gradients, "
            f"{self.num_matvecs} matvecs: slope {self.slope:.4g}, curvature {self.curvature:.4g}",
            f"  {'radius':>10}  {'curvature over it':>18}  {'± rounding':>10}  "
            f"{'hidden':>8}  {'remainder':>10}",
        ]
        shares, remainders = self.hidden_share.tolist(), self.relative_remainder.tolist()
        for i, h in enumerate(self.radii.tolist()):
            lines.append(
                f"  {h:>10.2e}  {float(self.differences[i]):>18.6g}  "
                f"{float(self.difference_rounding[i]):>10.1e}  {shares[i]:>8.1%}  "
                f"{remainders[i]:>10.1%}"
            )
        return "\n".join([*lines, f"  quadratic within 10 % up to {self.quadratic_radius:.2e}"])

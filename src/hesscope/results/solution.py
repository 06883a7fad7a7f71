"""The solution of a linear system with the operator, and what is known of its error."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.results.result import Columns, Result


@dataclass(frozen=True)
class Solution(Result):
    """x with (A + damping I) x = b, for one right-hand side (n,) or several (n, k).

    Residuals are those of a product that was made for the purpose, with the rounding of that
    product added. An error of x itself is known only where the smallest eigenvalue is.

    >>> import torch, hesscope as hs
    >>> s = hs.solve(torch.eye(2).double(), torch.tensor([3.0, 4.0]).double())
    >>> float(s.decrement[0]), float(s.residuals[0]) < 1e-12, float(s.errors[0])  # 0 is no bound
    (5.0, True, inf)
    """

    x: Tensor  # (n,) or (n, k), in the dtype of A
    residuals: Tensor  # (k,) float64: bounds on ‖b - (A + damping I) x‖
    sizes: Tensor  # (k,) float64: ‖b‖
    converged: Tensor  # (k,) bool: whether the residual is below tol ‖b‖
    quadratic: Tensor  # (k,) float64: bᵀx
    tol: float
    damping: float
    method: str  # "cg" or "minres"
    num_matvecs: int
    lambda_min: float = -math.inf  # proven: no eigenvalue of A + damping I lies below
    curvature: float = math.nan  # the lowest vᵀ(A + damping I)v/vᵀv that was met
    direction: Tensor | None = field(default=None, repr=False)  # (n,) that v, where it is negative
    history: tuple[tuple[float, ...], ...] = field(default=(), repr=False)  # ‖r‖/‖b‖, by column
    notes: tuple[str, ...] = field(default=())

    @property
    def relative(self) -> Tensor:
        """(k,) residuals over ‖b‖; zero where b is."""
        return self.residuals / self.sizes.clamp(min=rounding.POSITIVE)

    @property
    def errors(self) -> Tensor:
        """(k,) bounds on ‖x - x*‖: the residual over λmin; infinite where that is not known."""
        if self.lambda_min <= 0:
            return torch.full_like(self.residuals, math.inf)
        return self.residuals / self.lambda_min

    @property
    def decrement(self) -> Tensor:
        """(k,) √(bᵀ(A + damping I)⁻¹b): of a gradient, the Newton decrement; NaN if it is none.

        Half its square is what the quadratic model of the loss falls by (Boyd and Vandenberghe
        2004, section 9.5.1).
        """
        return self.quadratic.sqrt()

    @property
    def quadratic_errors(self) -> Tensor:
        """(k,) bounds on bᵀx - bᵀx*, by Cauchy and Schwarz: ‖b‖ ‖r‖/λmin."""
        return self.sizes * self.errors

    @property
    def negative_curvature(self) -> bool:
        """Whether a direction was met along which A + damping I is negative: a proof."""
        return self.direction is not None

    def columns(self) -> Columns:
        """One row a right-hand side."""
        return {
            "size of b": self.sizes,
            "residual": self.residuals,
            "relative residual": self.relative,
            "error of x": self.errors,
            "converged": self.converged,
        }

    def __str__(self) -> str:
        solved, total = int(self.converged.sum()), len(self.converged)
        words = {"cg": "conjugate gradients", "minres": "minimal residual"}[self.method]
        shift = f" + {self.damping:.3g} I" if self.damping else ""
        worst = float(self.relative.max())
        lines = [
            f"(A{shift}) x = b by {words}: {solved} of {total} to a relative residual of "
            f"{self.tol:.0e} (largest {worst:.1e}, {self.num_matvecs} matvecs)"
        ]
        if self.lambda_min > 0:
            lines.append(
                f"  ‖x - x*‖ <= {float(self.errors.max()):.2g}: no eigenvalue below "
                f"{self.lambda_min:.3g}"
            )
        elif self.negative_curvature:
            lines.append(
                f"  indefinite: a direction of curvature {self.curvature:.3g} is known, so x is a "
                "point where the quadratic model is flat, and no minimum of it"
            )
        else:
            lines.append(
                "  how far x is from the exact solution is not known: no eigenvalue is bounded "
                "away from zero"
            )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

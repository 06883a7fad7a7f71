"""The index of critical points against their loss, beside the random-matrix curve."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hesscope.results.estimate import plus_minus
from hesscope.results.result import Columns, Result


@dataclass(frozen=True)
class IndexCurve(Result):
    """Share of negative eigenvalues against loss, and the shifted semicircle fitted to it.

    The curve is F(slope (L - threshold) - 1), F the semicircle's distribution on [-1, 1];
    `rmt.negative_share(losses, threshold, slope)` draws it.
    """

    losses: Tensor  # (k,) float64, of the critical points
    shares: Tensor  # (k,) of their eigenvalues that are negative
    threshold: float  # loss at which the last negative eigenvalue vanishes
    threshold_error: float  # standard error from the scatter around the curve
    slope: float  # of the edge: its speed over half the width of the semicircle, per unit of loss
    slope_error: float
    rms_residual: float  # of the shares around the curve
    rank_correlation: float  # Spearman's, of losses and shares; no model

    def columns(self) -> Columns:
        """A row for each critical point."""
        return {"loss": self.losses, "share of negative eigenvalues": self.shares}

    def __str__(self) -> str:
        return (
            f"{len(self.losses)} critical points: index against loss has rank correlation "
            f"{self.rank_correlation:.3g}\n"
            f"  shifted semicircle: threshold loss "
            f"{plus_minus(self.threshold, self.threshold_error)}, slope "
            f"{plus_minus(self.slope, self.slope_error)}, rms residual {self.rms_residual:.2g}\n"
            "  a comparison with random matrices, not a law for networks"
        )

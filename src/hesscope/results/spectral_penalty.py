"""The largest eigenvalue of a batch as a term of a training loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hesscope.results.result import Result


@dataclass(frozen=True)
class SpectralPenalty(Result):
    """vᵀHv with its graph, to be added to a loss; the direction v, and how well it was found.

    `value` is a lower bound of λmax, and some eigenvalue lies within `residual` of it.
    """

    value: Tensor  # scalar, with its graph
    vector: Tensor  # (n,) v, of length 1, without graph: the start of the next step
    residual: float  # ‖Hv - value v‖
    num_matvecs: int

    def __str__(self) -> str:
        return (
            f"λmax about {float(self.value.detach()):.4g}, an eigenvalue within "
            f"{self.residual:.2g} of it ({self.num_matvecs} matvecs)"
        )

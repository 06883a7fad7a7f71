"""What each training example does to the loss on a test set."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hesscope.results.result import Columns, Result

STABLE = 0.9  # rank correlation between dampings below which the order is not relied on


@dataclass(frozen=True)
class Influence(Result):
    """By how much the test loss would rise if one training example were left out, to first order.

    Positive: the example helps. In the units of the test loss, for a model that stands at a minimum
    of the damped training loss.
    """

    scores: Tensor  # (N, T) float64: training examples by test losses
    damping: float
    why_damping: str
    matrix: str  # "Hessian" or "Gauss-Newton"
    residuals: Tensor  # (T,) relative ones of (A + damping I) s = g_test
    stability: (
        float  # the least rank correlation with the scores at a third and three times damping
    )
    slope: float  # ‖g‖ of the training loss: zero at a minimum, which the theory is about
    num_matvecs: int
    notes: tuple[str, ...] = field(default=())

    @property
    def stable(self) -> bool:
        """Whether three times more or less damping leaves the order as it is."""
        return self.stability >= STABLE

    def helpful(self, test: int = 0, num: int = 10) -> Tensor:
        """Indices of the training examples that lower this test loss most.

        >>> import torch
        >>> i = Influence(torch.tensor([[1.0], [-2.0], [3.0]]), 0.1, "", "Hessian",
        ...               torch.zeros(1), 1.0, 0.0, 0)
        >>> i.helpful(num=2), i.harmful(num=1)
        (tensor([2, 0]), tensor([1]))
        """
        return self.scores[:, test].sort(descending=True, stable=True).indices[:num]

    def harmful(self, test: int = 0, num: int = 10) -> Tensor:
        """Indices of the training examples that raise this test loss most."""
        return self.scores[:, test].sort(stable=True).indices[:num]

    def columns(self) -> Columns:
        """One row a training example, one column a test loss."""
        return {f"test {t}": column for t, column in enumerate(self.scores.unbind(1))}

    def __str__(self) -> str:
        num, tests = self.scores.shape
        lines = [
            f"influence of {num} examples on {tests} test loss{'es' if tests > 1 else ''}: "
            f"{self.matrix}, damping {self.damping:.3g} ({self.why_damping}), "
            f"{self.num_matvecs} matvecs, relative residual {float(self.residuals.max()):.0e}, "
            f"training gradient {self.slope:.2g} (none at a minimum, which the scores are for)",
            f"  leaving one out changes the loss by {float(self.scores.min()):.2e} to "
            f"{float(self.scores.max()):.2e}; helps most: {_some(self.helpful(num=5))}; "
            f"harms most: {_some(self.harmful(num=5))}",
        ]
        if not self.stable:
            lines.append(
                "  the order depends on the damping: rank correlation "
                f"{self.stability:.2f} with three times more or less. Do not read much into it"
            )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def _some(indices: Tensor) -> str:
    return ", ".join(str(i) for i in indices.tolist())


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, of two vectors; 1 where either is constant and nothing is ordered.

    >>> import torch
    >>> round(rank_correlation(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0.0, 7.0, 8.0])), 9)
    1.0
    """
    ranks = [v.argsort().argsort().double() for v in (a, b)]
    centred = [r - r.mean() for r in ranks]
    size = float(torch.linalg.vector_norm(centred[0]) * torch.linalg.vector_norm(centred[1]))
    return float(centred[0] @ centred[1]) / size if size > 0 else 1.0

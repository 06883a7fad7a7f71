"""How many eigenvalues stand apart at the top, and how far to believe it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hesscope.results.estimate import Interval
from hesscope.results.result import Columns, Result


@dataclass(frozen=True)
class Outliers(Result):
    """The largest gap ratio λ_i / λ_{i+1} among positive eigenvalues, and what speaks against it.

    `count` is the i of the largest ratio. `clear` says that no reason against it was found;
    `reasons` lists those that were. A count without its ratio means nothing, so printing shows
    both, beside the counts that a classifier of C classes would suggest.
    """

    count: int
    gap_ratio: float  # λ_count / λ_{count + 1}; nan where there is no gap
    gap_interval: Interval  # of the gap ratio, given the errors of the two eigenvalues
    runner_up: int  # the i of the second largest ratio; 0 where there is one gap only
    runner_up_ratio: float
    clear: bool
    reasons: tuple[str, ...]  # why it is not clear
    considered: int  # how many gaps, from the top, could have been the one
    eigenvalues: Tensor  # (m,) float64, all that are positive beyond their error, descending
    most_negative: float  # no eigenvalue lies below; nan where that end is not known
    scope: str  # how many gaps were looked at, and of what
    num_classes: int | None = None
    class_count: int | None = None  # eigenvectors with overlap above one half
    overlap: Tensor | None = None  # (k,) squared projection on the span of the class means

    @property
    def gap_ratios(self) -> Tensor:
        """(m - 1,) λ_i / λ_{i+1} for i = 1, 2, ..., also beyond the gaps that were considered."""
        return self.eigenvalues[:-1] / self.eigenvalues[1:]

    def ratio_at(self, count: int) -> float | None:
        """λ_count / λ_{count + 1}, or None where these are not both known and positive.

        >>> import torch, hesscope as hs
        >>> hs.outliers(torch.tensor([8.0, 6.0, 2.0, 1.0])).ratio_at(2)
        3.0
        """
        ratios = self.gap_ratios
        return float(ratios[count - 1]) if 1 <= count <= len(ratios) else None

    def quantities(self) -> dict[str, Any]:
        """The count with its gap, the runner-up, and what classes would suggest."""
        found: dict[str, Any] = {
            "outliers": self.count,
            "clear": self.clear,
            "gap ratio": self.gap_ratio,
            "gap ratio, interval": self.gap_interval,
        }
        if self.runner_up:
            found["runner-up: outliers"] = self.runner_up
            found["runner-up: gap ratio"] = self.runner_up_ratio
        if self.num_classes is not None:
            found[f"gap ratios for {self.num_classes} classes"] = self._expected()
        if self.class_count is not None:
            found["eigenvectors in the class subspace by more than half"] = self.class_count
        return {**found, "looked at": self.scope}

    def remarks(self) -> tuple[str, ...]:
        """Why the count is not clear."""
        return tuple(f"unclear because {reason}" for reason in self.reasons)

    def columns(self) -> Columns:
        """A row for each gap that was considered."""
        num = min(self.considered, len(self.eigenvalues) - 1)
        if num < 1:
            return {}
        return {
            "outliers": list(range(1, num + 1)),
            "eigenvalue": self.eigenvalues[:num],
            "next eigenvalue": self.eigenvalues[1 : num + 1],
            "gap ratio": self.gap_ratios[:num],
        }

    def __str__(self) -> str:
        lines = [f"{self._headline()}: {self._ratios()}"]
        lines += [f"  unclear because {reason}" for reason in self.reasons]
        if self.num_classes is not None:
            lines.append(f"  gap ratios for C = {self.num_classes} classes: {self._expected()}")
        if self.class_count is not None and self.overlap is not None:
            lines.append(
                f"  class subspace: {self.class_count} of {len(self.overlap)} eigenvectors lie in "
                "it by more than half (squared projection)"
            )
        return "\n".join([*lines, f"  {self.scope}"])

    def _headline(self) -> str:
        noun = "outlier" if self.count == 1 else "outliers"
        return f"{self.count} {noun}, {'clear' if self.clear else 'unclear'}"

    def _ratios(self) -> str:
        if self.considered == 0:
            return "no two positive eigenvalues above their errors and above |λmin|"
        i = self.count
        low, high = f"{self.gap_interval.low:.3g}", f"{self.gap_interval.high:.3g}"
        within = "" if low == high else f" in [{low}, {high}]"
        text = f"gap ratio λ{i}/λ{i + 1} = {self.gap_ratio:.3g}{within}"
        if self.runner_up:
            j = self.runner_up
            text += f", runner-up λ{j}/λ{j + 1} = {self.runner_up_ratio:.3g}"
        return text

    def _expected(self) -> str:
        C = self.num_classes or 0
        places = (("C-1", C - 1), ("C", C), ("C(C-1)", C * (C - 1)), ("C²", C * C))
        shown = []
        for name, count in places:
            ratio = self.ratio_at(count)
            shown.append(f"{name} = {count}: {'not seen' if ratio is None else f'{ratio:.3g}'}")
        return ", ".join(shown)

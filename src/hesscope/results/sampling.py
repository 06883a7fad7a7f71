"""How much of an eigenvalue is the luck of the data set, and which examples cause it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from torch import Tensor

from hesscope.results.estimate import Estimate, Interval, plus_minus
from hesscope.results.result import Columns, Result

MIXED = 0.1  # sin² of the angle above which first-order theory is not relied on
SAID = 3  # eigenvalues for which a page says how many examples more would do
PRINTED = 20  # eigenvalues that are shown when a result is printed


@dataclass(frozen=True)
class Shares(Result):
    """Parts w_n v'∇²ℓ_n v of each example n in the curvature along k unit vectors v.

    A column adds up to v'Hv, which is the eigenvalue; shares may be negative. Rows are in the
    order of the data: of this process's data, if there are several; classes are of all.
    """

    examples: Tensor  # (N, k) float64, in the units of the loss per squared parameter
    by_class: Tensor | None = None  # (C, k), sums over the examples of each label
    class_sizes: Tensor | None = None  # (C,) how many examples carry each label
    num_matvecs: float = 0.0  # about, or products of single examples

    def largest(self, i: int = 0, num: int = 10) -> Tensor:
        """Indices of the `num` examples with the largest shares in eigenvalue i, descending.

        >>> import torch
        >>> Shares(torch.tensor([[0.5], [2.0], [-1.0]])).largest(num=2)
        tensor([1, 0])
        """
        order = self.examples[:, i].sort(descending=True, stable=True).indices
        return order[:num]

    def num_effective(self, i: int = 0) -> float:
        """(Σ|s|)² / Σs²: N if all examples have equal shares, 1 if one example has everything.

        >>> import torch
        >>> Shares(torch.tensor([[1.0], [1.0], [0.0]])).num_effective()
        2.0
        """
        s = self.examples[:, i].abs()
        squares = float(s.square().sum())
        return float(s.sum()) ** 2 / squares if squares > 0 else math.nan

    def __str__(self) -> str:
        return "\n".join(self._line(i) for i in range(min(self.examples.shape[1], PRINTED)))

    def _line(self, i: int) -> str:
        total = float(self.examples[:, i].sum())
        top = self.largest(i, 3).tolist()
        shares = ", ".join(f"{n} ({float(self.examples[n, i]) / total:.1%})" for n in top)
        line = f"{i + 1:>3}  {self.num_effective(i):.0f} effective examples; largest: {shares}"
        if self.by_class is None or self.class_sizes is None:
            return line
        c = int(self.by_class[:, i].argmax() if total > 0 else self.by_class[:, i].argmin())
        weight = float(self.class_sizes[c] / self.class_sizes.sum())
        return f"{line}; class {c}: {float(self.by_class[c, i]) / total:.1%} from {weight:.1%}"


@dataclass(frozen=True)
class SamplingError(Result):
    """Eigenvalues of a finite data set as estimates of those of the population it was drawn from.

    For eigenvalue λ_i of N independent examples, `standard_errors[i]` is its spread over draws of
    the data set and `biases[i]` its mean excess over the eigenvalue of the mean over infinitely
    many examples. Finite data always exaggerates the ends: E λmax(H_N) ≥ λmax(H) and
    E λmin(H_N) ≤ λmin(H), by Jensen's inequality. Both come from perturbation theory, which holds
    while `mixing[i]`, the expected sin² of the angle between the eigenvector at hand and that of
    the population, is small.
    """

    eigenvalues: Tensor  # (k,) float64, of the data at hand
    standard_errors: Tensor  # (k,) float64, first order
    biases: Tensor  # (k,) float64, second order
    mixing: Tensor  # (k,) float64
    num_examples: float
    num_parts: int  # whose spread gives the standard errors
    num_matvecs: int
    shares: Shares | None = None
    notes: tuple[str, ...] = ()
    unit: str = "examples"  # what `num_examples` counts: also items, or batches never cut

    def __len__(self) -> int:
        return len(self.eigenvalues)

    @property
    def reliable(self) -> Tensor:
        """(k,) bool: the eigenvector is settled enough, mixing ≤ 0.1, for its numbers to hold."""
        return self.mixing <= MIXED

    def interval(self, i: int = 0, level: float = 0.95) -> Interval:
        """λ_i - bias_i ± t·SE_i: where the population's eigenvalue lies with this probability.

        t is Student's quantile with num_parts - 1 degrees of freedom.

        Raises:
            ValueError: if level is not between 0 and 1.

        >>> import torch
        >>> one = torch.ones(1).double()
        >>> error = SamplingError(10 * one, one, 0.5 * one, 0.01 * one, 1000.0, 33, 3)
        >>> error.interval(0)  # 9.5 ± 2.037, for 32 degrees of freedom
        Interval(low=7.46..., high=11.53..., level=0.95)
        """
        from scipy.special import stdtrit

        _check_level(level)
        centre = float(self.eigenvalues[i] - self.biases[i])
        half = float(stdtrit(self.num_parts - 1, 0.5 + level / 2) * self.standard_errors[i])
        return Interval(centre - half, centre + half, level)

    def examples_needed(self, i: int = 0, relative: float = 0.05, level: float = 0.95) -> float:
        """About how many examples bring interval i at this level down to ± relative·|λ_i|.

        N (z SE / (relative |λ - bias|))², z the normal quantile: standard errors fall as 1/√N. It
        is itself uncertain by about the factor 1 ± 2/√(2 (num_parts - 1)).

        Raises:
            ValueError: if level or relative is not between 0 and 1.

        >>> import torch
        >>> one = torch.ones(1).double()
        >>> error = SamplingError(10 * one, one, 0 * one, 0.01 * one, 1000.0, 33, 3)
        >>> round(error.examples_needed(0))  # (1.96 · 10 % / 5 %)² = 15.37 times as many
        15366
        """
        _check_level(level)
        if not 0 < relative < 1:
            msg = f"relative={relative} is not between 0 and 1; 0.05 asks for ± 5 %."
            raise ValueError(msg)
        wanted = relative * abs(float(self.eigenvalues[i] - self.biases[i]))
        z = NormalDist().inv_cdf(0.5 + level / 2)
        half = z * float(self.standard_errors[i])
        return self.num_examples * (half / wanted) ** 2 if wanted > 0 else math.inf

    def on_batches(self, size: int, i: int = 0) -> Estimate:
        """What eigenvalue i would read on random batches of `size` examples, and its spread.

        λ - bias + bias·N/size ± SE·√(N/size): the bias of a batch is N/size times the bias of the
        data, its standard deviation √(N/size) times. Holds while mixing·N/size is below about 1;
        beyond, it is too high. Averaging readings of many batches removes the spread, not the bias.

        Raises:
            ValueError: if size is not positive.

        >>> import torch
        >>> one = torch.ones(1).double()
        >>> error = SamplingError(10 * one, one, 0.5 * one, 0.001 * one, 1000.0, 33, 3)
        >>> error.on_batches(250)  # 9.5 + 4 · 0.5, and 1 · √4
        Estimate(value=11.5, stderr=2.0, num_matvecs=0)
        """
        if size < 1:
            msg = f"size={size}: a batch holds one example or more."
            raise ValueError(msg)
        ratio = self.num_examples / size
        value = float(self.eigenvalues[i] + (ratio - 1) * self.biases[i])
        return Estimate(value, math.sqrt(ratio) * float(self.standard_errors[i]))

    def columns(self) -> Columns:
        """A row for each eigenvalue."""
        held = [self.interval(i) if self.reliable[i] else None for i in range(len(self))]
        return {
            "eigenvalue": self.eigenvalues,
            "standard error": self.standard_errors,
            "bias": self.biases,
            "mixing": self.mixing,
            "interval of the population": held,
        }

    def quantities(self) -> dict[str, Any]:
        """How many examples it rests on, and how many would bring ± 5 %."""
        whole = range(min(len(self), SAID))
        needed = {
            f"{self.unit} for ± 5 % of eigenvalue {i + 1}": self.examples_needed(i) for i in whole
        }
        return {
            self.unit: self.num_examples,
            "parts whose spread was seen": self.num_parts,
            **needed,
            "cost in products (matvecs)": self.num_matvecs,
        }

    def __str__(self) -> str:
        lines = [
            f"data error of {len(self)} eigenvalues, {self.num_examples:g} {self.unit} in "
            f"{self.num_parts} parts, {self.num_matvecs} matvecs",
            f"{'':>3}  {'on this data':<24}{'bias':>10}  {'in the population (95 %)':<26}"
            f"{'for ± 5 %':>10}  mixing",
        ]
        lines += [self._line(i) for i in range(min(len(self), PRINTED))]
        if len(self) > PRINTED:
            lines.append(f"  ... and {len(self) - PRINTED} more in `eigenvalues`")
        if self.shares is not None:
            lines += ["  shares of examples:", *str(self.shares).splitlines()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _line(self, i: int) -> str:
        value = plus_minus(float(self.eigenvalues[i]), float(self.standard_errors[i]))
        held = self.interval(i)
        line = (
            f"{i + 1:>3}  {value:<24}{float(self.biases[i]):>+10.1e}  "
            f"{f'[{held.low:.4g}, {held.high:.4g}]':<26}"
            f"{self.examples_needed(i):>10.3g}  {float(self.mixing[i]):.1e}"
        )
        return line if self.reliable[i] else f"{line}  first-order theory fails: vectors mix"


def _check_level(level: float) -> None:
    """Refuses what is no probability.

    Raises:
        ValueError: if level is not between 0 and 1.
    """
    if not 0 < level < 1:
        msg = f"level={level} is not a probability between 0 and 1; the usual one is 0.95."
        raise ValueError(msg)

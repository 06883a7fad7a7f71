"""A number with its error: Estimate and Interval."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from torch import Tensor

from hesscope.results.result import Result


@dataclass(frozen=True)
class Interval(Result):
    """[low, high], which holds the truth with probability `level` (1.0: always)."""

    low: float
    high: float
    level: float = 1.0

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def width(self) -> float:
        """high - low."""
        return self.high - self.low

    def __str__(self) -> str:
        level = "certain" if self.level == 1.0 else f"{100 * self.level:g} %"
        return f"[{self.low:.6g}, {self.high:.6g}] ({level})"


@dataclass(frozen=True)
class Estimate(Result):
    """A value, its standard error, and what it cost in matvecs.

    What is not random adds to the interval at its two ends: the truth, apart from sampling, lies
    between value - below and value + above (the bracket of a quadrature rule, for example).
    """

    value: float
    stderr: float
    num_matvecs: int = 0
    below: float = field(default=0.0, repr=False)
    above: float = field(default=0.0, repr=False)
    degrees: float = field(default=math.inf, repr=False)  # of freedom behind the standard error
    seed: int | None = field(
        default=None, repr=False
    )  # of the random vectors: the same give it again
    notes: tuple[str, ...] = field(default=(), repr=False)

    def interval(self, level: float = 0.95) -> Interval:
        """[value - below - t·stderr, value + above + t·stderr], with Student's t at this level.

        Raises:
            ValueError: if level is not between 0 and 1.

        >>> Estimate(10.0, 1.0).interval(0.95)
        Interval(low=8.04..., high=11.95..., level=0.95)
        """
        if not 0 < level < 1:
            msg = f"level={level} is not a probability between 0 and 1; the usual one is 0.95."
            raise ValueError(msg)
        half = student_quantile(0.5 + level / 2, self.degrees) * self.stderr
        low, high = self.value - self.below - half, self.value + self.above + half
        return Interval(low, high, level)

    def quantities(self) -> dict[str, Any]:
        """Value and error in one, the interval at 95 %, and the cost."""
        held = {} if math.isnan(self.value) else {"interval": self.interval()}
        return {
            "value ± standard error": self,
            **held,
            "cost in products (matvecs)": self.num_matvecs,
        }

    def __str__(self) -> str:
        error = self.stderr + max(self.below, self.above)
        text = f"{plus_minus(self.value, error)} ({self.num_matvecs} matvecs)"
        return "\n".join([text, *(f"  note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class Diagonal(Result):
    """All diagonal entries of an operator, and the error of the vector as a whole."""

    values: Tensor  # (n,) float64
    error: float  # an estimate of the 2-norm of the error; 0 where nothing was random
    num_matvecs: int
    seed: int | None = None  # of the random signs

    def __str__(self) -> str:
        size = float(self.values.norm())
        share = self.error / size if size > 0 else 0.0
        return (
            f"diagonal of {len(self.values)} entries from {float(self.values.min()):.4g} to "
            f"{float(self.values.max()):.4g}, 2-norm {size:.4g} known to {share:.1%} "
            f"({self.num_matvecs} matvecs)"
        )


def student_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t distribution, the normal one for infinitely many degrees.

    >>> round(student_quantile(0.975, 4), 3), round(student_quantile(0.975, math.inf), 3)
    (2.776, 1.96)
    """
    if math.isinf(degrees):
        return NormalDist().inv_cdf(probability)
    from scipy.special import stdtrit  # when it is needed: importing hesscope stays fast

    return float(stdtrit(degrees, probability))


def plus_minus(value: float, error: float) -> str:
    """The value to the digits that its error leaves, and the error to two.

    >>> plus_minus(0.90123456, 5e-4), plus_minus(-0.758, 0.0), plus_minus(12345.0, 210.0)
    ('0.90123 ± 5.0e-04', '-0.758', '1.23e+04 ± 2.1e+02')
    """
    if not math.isfinite(error) or error <= 0 or not math.isfinite(value):
        return f"{value:.6g}"
    ratio = abs(value) / error  # zero for a denormal value, too
    digits = 6 if ratio == 0 else math.floor(math.log10(ratio)) + 2
    return f"{value:.{min(max(digits, 2), 12)}g} ± {error:.1e}"

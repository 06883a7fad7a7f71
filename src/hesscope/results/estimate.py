"""A number with its error: Estimate and Interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Interval:
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
class Estimate:
    """A value, its standard error, and what it cost in matvecs."""

    value: float
    stderr: float
    num_matvecs: int = 0

    def interval(self, level: float = 0.95) -> Interval:
        """The normal interval value ± z·stderr at this level.

        Raises:
            ValueError: if level is not between 0 and 1.

        >>> Estimate(10.0, 1.0).interval(0.95)
        Interval(low=8.04..., high=11.95..., level=0.95)
        """
        if not 0 < level < 1:
            msg = f"level={level} is not a probability between 0 and 1; the usual one is 0.95."
            raise ValueError(msg)
        half = NormalDist().inv_cdf(0.5 + level / 2) * self.stderr
        return Interval(self.value - half, self.value + half, level)

    def __str__(self) -> str:
        return f"{plus_minus(self.value, self.stderr)} ({self.num_matvecs} matvecs)"


def plus_minus(value: float, error: float) -> str:
    """The value to the digits that its error leaves, and the error to two.

    >>> plus_minus(0.90123456, 5e-4), plus_minus(-0.758, 0.0), plus_minus(12345.0, 210.0)
    ('0.90123 ± 5.0e-04', '-0.758', '1.23e+04 ± 2.1e+02')
    """
    if not math.isfinite(error) or error <= 0 or not math.isfinite(value):
        return f"{value:.6g}"
    digits = 6 if value == 0 else math.floor(math.log10(abs(value) / error)) + 2
    return f"{value:.{min(max(digits, 2), 12)}g} ± {error:.1e}"

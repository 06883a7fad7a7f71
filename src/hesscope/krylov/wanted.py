"""Which eigenvalues are asked for, the region in which no other may lie, and how that is said."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

Which = Literal["LA", "SA", "LM", "BE"]

WORDS = {"LA": "largest", "SA": "smallest", "LM": "largest in absolute value", "BE": "outermost"}


@dataclass(frozen=True)
class Wanted:
    """Which k of some values are asked for, and the region in which no other may lie."""

    k: int
    which: Which

    def choose(self, values: np.ndarray) -> np.ndarray:
        """Indices of the wanted values, the most wanted first."""
        up = np.argsort(values, kind="stable")
        if self.which == "LA":
            return up[::-1][: self.k]
        if self.which == "SA":
            return up[: self.k]
        if self.which == "LM":
            return np.argsort(-np.abs(values), kind="stable")[: self.k]
        if len(values) <= self.k:
            return up[::-1]
        top, bottom = self.ends()
        return np.concatenate([up[::-1][:top], up[:bottom][::-1]])

    def region(self, chosen: np.ndarray) -> tuple[float, float]:
        """(low, high) such that exactly the values <= low or >= high are wanted."""
        if self.which == "LA":
            return -math.inf, float(chosen.min())
        if self.which == "SA":
            return float(chosen.max()), math.inf
        if self.which == "LM":
            smallest = float(np.abs(chosen).min())
            return -smallest, smallest
        top, bottom = self.ends()
        ordered = np.sort(chosen)
        return float(ordered[bottom - 1]) if bottom else -math.inf, float(ordered[-top])

    def ends(self) -> tuple[int, int]:
        """How many come from the top and from the bottom for "BE"."""
        return -(-self.k // 2), self.k // 2


def gaps(theta: np.ndarray, low: float, high: float, window: float) -> list[tuple[float, float]]:
    """The wanted region without windows around the Ritz values that lie in it."""
    free: list[tuple[float, float]] = []
    if math.isfinite(high):
        inside = np.sort(theta[theta >= high])
        edges = [high, *inside]
        free += [(a + window, b - window) for a, b in itertools.pairwise(edges)]
        free.append((edges[-1] + window, math.inf))
    if math.isfinite(low):
        inside = np.sort(theta[theta <= low])[::-1]
        edges = [low, *inside]
        free += [(b + window, a - window) for a, b in itertools.pairwise(edges)]
        free.append((-math.inf, edges[-1] - window))
    return free


def statement(
    wanted: Wanted,
    complete: bool,
    copies: bool,
    window: float,
    delta: float,
    lower: float,
    upper: float,
) -> str:
    """What a certificate says, in words."""
    low, high = rounded_outwards(lower, upper)
    bounds = f"all eigenvalues lie in [{low:.5g}, {high:.5g}] with probability {1 - delta:g}"
    if not complete:
        return f"not certified complete; {bounds}"
    extent = "copies included" if copies else f"up to copies within ± {window:.1e}"
    return (
        f"nothing was skipped among the {wanted.k} {WORDS[wanted.which]} ({extent}, window "
        f"{window:.1e}); {bounds}"
    )


def rounded_outwards(lower: float, upper: float) -> tuple[float, float]:
    """Bounds to five digits that still hold.

    >>> "{:.5g} {:.5g}".format(*rounded_outwards(-0.123456, 0.123451))
    '-0.12346 0.12346'
    """
    return -_rounded_up(-lower), _rounded_up(upper)


def _rounded_up(value: float) -> float:
    if value == 0 or not math.isfinite(value):
        return value
    digits = math.floor(math.log10(abs(value))) - 4
    if not -300 <= digits <= 300:  # the unit would lose its digits, or be none
        return value
    unit = 10.0**digits
    return math.ceil(value / unit) * unit

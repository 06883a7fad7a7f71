"""The symlog axis of an eigenvalue: logarithmic on both sides of a middle that is called zero."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINSCALE = 0.5  # the width of half the middle, in decades
LABELLED_X, LABELLED_Y = 2, 4  # decades that get a tick label on each side, at most


def bin_edges(tau: float, size: float, per_decade: int) -> np.ndarray:
    """Edges of bins from -size to size: even in the logarithm beyond ± tau, one bin within.

    >>> bin_edges(1.0, 100.0, 1).round(2).tolist()
    [-100.1, -10.0, -1.0, 1.0, 10.0, 100.1]
    """
    decades = math.log10(max(size / tau, 10.0))
    num = max(2, round(per_decade * decades) + 1)
    upper = tau * 10 ** np.linspace(0, decades, num)
    upper[0] = np.nextafter(tau, np.inf)  # ± tau itself is within
    upper[-1] *= 1.001  # the largest value itself stays inside, whatever the rounding
    return np.concatenate([-upper[::-1], upper])


def scale_x(ax: Axes, tau: float, lowest: float, highest: float) -> None:
    """Makes the x axis symlog from lowest to highest, with a tick at each decade and few labels."""
    ax.set_xscale("symlog", linthresh=tau, linscale=LINSCALE)
    ticks = tick_values(tau, lowest, highest, LABELLED_X)
    ax.set_xticks(ticks, [label(tick) for tick in ticks])
    decades = tick_values(tau, lowest, highest, most=400)
    ax.set_xticks(decades, [""] * len(decades), minor=True)
    ax.set_xlim(lowest, highest)


def scale_y(ax: Axes, tau: float, lowest: float, highest: float) -> None:
    """The same for the y axis."""
    ax.set_yscale("symlog", linthresh=tau, linscale=LINSCALE)
    ticks = tick_values(tau, lowest, highest, LABELLED_Y)
    ax.set_yticks(ticks, [label(tick) for tick in ticks])
    decades = tick_values(tau, lowest, highest, most=400)
    ax.set_yticks(decades, [""] * len(decades), minor=True)
    ax.set_ylim(lowest, highest)


def covering(ax: Axes, low: float, high: float) -> tuple[float, float]:
    """This range, and that of what has been drawn on the axes before, so that pictures add up."""
    if not ax.has_data() or ax.get_xscale() != "symlog":
        return low, high
    before = ax.get_xlim()
    return min(low, before[0]), max(high, before[1])


def tick_values(tau: float, lowest: float, highest: float, most: int = LABELLED_Y) -> list[float]:
    """Zero and at most so many powers of ten on each side, none within tau.

    >>> tick_values(1e-6, -1.0, 100.0)
    [-1.0, -0.01, -0.0001, 0.0, 0.0001, 0.01, 1.0, 100.0]
    """
    first = math.floor(math.log10(tau)) + 1
    last = math.floor(math.log10(max(highest, -lowest, 10 * tau)) + 1e-9)
    step = max(1, -(-(last - first + 1) // most))
    decades = [10.0**power for power in range(last, first - 1, -step)]
    below = [-decade for decade in decades if decade <= -lowest]
    return [*below, 0.0, *reversed([decade for decade in decades if decade <= highest])]


def label(value: float) -> str:
    """A power of ten as it is written.

    >>> label(-0.001), label(0.0)
    ('$-10^{-3}$', '0')
    """
    if value == 0:
        return "0"
    return f"${'-' if value < 0 else ''}10^{{{round(math.log10(abs(value)))}}}$"

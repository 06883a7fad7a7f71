"""What the figures that this reproduction draws itself share; `hs.plots` looks alike."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POSITIVE, NEGATIVE, ZERO, MARK = "#2f6db3", "#c8553d", "#8a8f98", "#b8860b"
MOST = 3  # labelled decades on each side of zero


def decades(ax: Axes, tau: float, low: float, high: float) -> None:
    """The same limits and ticks on symlog axes of several panels, some decades on each side."""
    first, last = math.ceil(math.log10(tau)) + 1, math.floor(math.log10(max(-low, high)))
    step = max(1, -(-(last - first + 1) // MOST))
    sizes = [10.0**power for power in range(last, first - 1, -step)]
    ticks = [-x for x in sizes if -x >= low] + [0.0] + [x for x in reversed(sizes) if x <= high]
    ax.set_xticks(ticks, [_label(tick) for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlim(low, high)


def _label(value: float) -> str:
    if value == 0:
        return "0"
    return f"${'-' if value < 0 else ''}10^{{{round(math.log10(abs(value)))}}}$"

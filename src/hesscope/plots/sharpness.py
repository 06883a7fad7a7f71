"""The sharpness of several networks beside each other, where their losses allow it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hesscope.plots.colours import LINE, sequence
from hesscope.plots.style import new_axes
from hesscope.results.sharpness import EQUAL, Sharpness
from hesscope.system.contexts import public

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@public
def sharpness(
    results: Sequence[Sharpness],
    *,
    labels: Sequence[str] | None = None,
    tolerance: float = EQUAL,
    ax: Axes | None = None,
) -> Axes:
    """Each measure of several networks, as a multiple of that of the first, on a logarithmic axis.

    Bars are standard errors or residuals; an arrow head to the right marks a lower bound.

    Args:
        results: of `hs.sharpness`, two or more, at one training loss.
        labels: one for each.
        tolerance: relative difference of losses up to which they are compared.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: if the losses differ by more, or there are fewer than two.
        RuntimeError: if matplotlib is not installed.
    """
    if len(results) < 2 or (labels is not None and len(labels) != len(results)):
        msg = f"{len(results)} results and {len(labels or ())} labels; give two or more, one each."
        raise ValueError(msg)
    for other in results[1:]:
        compared = results[0].compare(other, tolerance)
        if not compared.equal_loss:
            raise ValueError(str(compared))
    names = [m.name for m in results[0].measures if math.isfinite(m.value) and m.value > 0]
    ax = new_axes(ax, (5.8, 0.9 + 0.36 * len(names)))
    for i, (result, colour) in enumerate(zip(results, sequence(len(results)), strict=True)):
        label = labels[i] if labels else f"network {i + 1}"
        height = np.arange(len(names)) + 0.5 * (i / (len(results) - 1) - 0.5)
        mine = [result[name] for name in names]
        first = np.array([results[0][name].value for name in names])
        values = np.array([m.value if m.value > 0 else math.nan for m in mine]) / first
        errors = np.array([0.0 if m.kind == "bound" else m.error for m in mine]) / first
        text = f"{label} (loss {result.loss:.3g})"
        ax.errorbar(values, height, xerr=errors, fmt="o", color=colour, ms=4.5, label=text)
        bounds = [j for j, m in enumerate(mine) if m.kind == "bound"]
        ax.plot(values[bounds] * 1.12, height[bounds], ">", color=colour, markersize=3)
    ax.axvline(1.0, color=LINE, linewidth=0.6)
    ax.set_xscale("log")
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("multiple of the first network's (▸ lower bound)")
    ax.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    ax.spines[["top", "right"]].set_visible(False)
    return ax

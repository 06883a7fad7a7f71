"""How the loss rises with the distance from θ, along directions of several kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hesscope.plots.colours import LINE
from hesscope.plots.style import MARK, NEGATIVE, POSITIVE, new_axes, quiet, wanted
from hesscope.results.basin import Basin
from hesscope.system.contexts import public

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"flat": POSITIVE, "symmetry": MARK, "random": NEGATIVE}


@public
def basin(result: Basin, *, ax: Axes | None = None) -> Axes:
    """The larger of the two rises of the loss, absolute, over the distance; both logarithmic.

    A line for each walk, coloured by kind; the dashed line is the rise at which widths are read,
    the dotted one what rounding hides.

    Args:
        result: of `hs.basin`.
        ax: where to draw; by default a new figure.

    Raises:
        TypeError: if it is no basin.
        RuntimeError: if matplotlib is not installed.
    """
    wanted(result, Basin, "hs.basin(problem)")
    ax = new_axes(ax, (5.8, 3.8))
    labels = {"flat": "flat (near-null)", "symmetry": "symmetry orbit", "random": "random"}
    floor = result.rounding
    for walk in result.walks:
        rises = np.abs(walk.rises.numpy()).max(axis=1)
        rises = np.where(np.isfinite(rises), np.maximum(rises, floor), np.nan)
        label = labels.pop(walk.kind, None)
        ax.plot(walk.distances.numpy(), rises, color=COLOURS[walk.kind], linewidth=1.4, label=label)
    ax.axhline(floor, linestyle=":", color=LINE, linewidth=0.9, label="rounding of the loss")
    ax.axhline(result.rise, linestyle="--", color=LINE, linewidth=0.9, label="rise for a width")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("distance from θ in parameter space")
    ax.set_ylabel("|change of the mean loss|, worse side")
    ax.legend(fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    quiet(ax)
    return ax

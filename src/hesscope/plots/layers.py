"""Which layers carry the curvature: the norms of all blocks of the Hessian as a heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hesscope import rounding
from hesscope.plots.style import new_axes, wanted
from hesscope.results.layers import LayerMap
from hesscope.system.contexts import public

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ANNOTATED = 12  # layers up to which each cell shows its number


@public
def layer_map(result: LayerMap, *, ax: Axes | None = None) -> Axes:
    """‖H_lm‖_F for all pairs of layers, on a logarithmic colour scale, with λmax beside the names.

    Raises:
        TypeError: if it is no map of layers.
        RuntimeError: if matplotlib is not installed.
    """
    wanted(result, LayerMap, "hs.layer_map(problem)")
    num = len(result.layers)
    side = 1.6 + 0.62 * min(num, 2 * ANNOTATED)
    ax = new_axes(ax, (side + 2.0, side))
    from matplotlib.colors import LogNorm  # an optional dependency

    norms = result.interaction.numpy()
    floor = max(float(norms.max()) * 1e-6, rounding.tiny())
    norm = LogNorm(vmin=max(float(norms.min()), floor), vmax=max(float(norms.max()), 10 * floor))
    image = ax.imshow(np.maximum(norms, floor), cmap="cividis", norm=norm)
    ax.set_xticks(range(num), result.layers, rotation=45, ha="right", rotation_mode="anchor")
    rows = zip(result.layers, result.lambda_max, strict=True)
    ax.set_yticks(range(num), [f"{name}  (λmax {float(top):.2g})" for name, top in rows])
    if num <= ANNOTATED:
        _annotate(ax, norms, norm)
    ax.figure.colorbar(image, ax=ax, label="Frobenius norm of the block", shrink=0.85)
    return ax


def _annotate(ax: Axes, norms: np.ndarray, norm: object) -> None:
    """The number in each cell, dark on light and light on dark."""
    for (i, j), value in np.ndenumerate(norms):
        light = float(norm(value)) > 0.6 if callable(norm) and value > 0 else False
        ax.text(
            j,
            i,
            f"{value:.2g}",
            ha="center",
            va="center",
            fontsize=8,
            color="#14171a" if light else "#f4f4f2",
        )

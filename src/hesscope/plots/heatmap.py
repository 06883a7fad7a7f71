"""A whole Hessian, entry by entry: which parameters it couples, and with which sign."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from hesscope.plots import symlog
from hesscope.plots.colours import LINE, diverging
from hesscope.plots.style import new_axes
from hesscope.system.contexts import public

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 1_000  # above, a row is narrower than a pixel of a page
DECADES = 4  # below the largest entry; smaller ones fade into white
FONT, SMALLEST_FONT = 8.0, 5.0  # points


@public
def heatmap(
    matrix: Tensor,
    *,
    names: Sequence[str] | None = None,
    boundaries: Sequence[int] | Tensor | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Every entry of a symmetric matrix as a cell, blue above zero and red below.

    The colour is logarithmic from 1e-4 of the largest absolute entry on and linear below, with
    white at zero, so that entries of very different sizes show. It is the same on both sides.

    Args:
        matrix: (n, n), such as `hs.Hessian(problem).to_dense()`, n up to 1,000.
        names: of the blocks, in order; without boundaries, of the rows.
        boundaries: the rows at which a new block begins; 0 and n may be left out. With layers of
            given sizes: `torch.tensor(sizes).cumsum(0)`.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: if the matrix is not square, too large or not finite, or the names and
            boundaries do not fit it.
        RuntimeError: if matplotlib is not installed.
    """
    values = _values(matrix)
    n = len(values)
    edges = _edges(n, names, boundaries)
    ax = new_axes(ax, (5.6, 4.7))
    from matplotlib.colors import SymLogNorm  # an optional dependency

    size = float(np.abs(values).max()) or 1.0
    tau = size * 10.0**-DECADES
    norm = SymLogNorm(tau, linscale=symlog.LINSCALE, vmin=-size, vmax=size)
    extent = (0, n, n, 0)  # row i from i to i + 1
    image = ax.imshow(values, cmap=diverging(), norm=norm, extent=extent, interpolation="nearest")
    if boundaries is not None:
        ax.hlines(edges[1:-1], 0, n, color=LINE, linewidth=0.6)
        ax.vlines(edges[1:-1], 0, n, color=LINE, linewidth=0.6)
    _name_blocks(ax, edges, names)
    ticks = symlog.tick_values(tau, -size, size)
    bar = ax.figure.colorbar(image, ax=ax, label="entry of the matrix", shrink=0.85, pad=0.03)
    bar.set_ticks(ticks, labels=[symlog.label(tick) for tick in ticks])
    bar.ax.minorticks_off()
    return ax


def _values(matrix: Tensor) -> np.ndarray:
    """The matrix as an array.

    Raises:
        ValueError: if it is not square, too large or not finite.
    """
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        given = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
        msg = (
            f"matrix is {given}; a heat map needs a square tensor (n, n), such as "
            "hs.Hessian(problem).to_dense()."
        )
        raise ValueError(msg)
    n = len(matrix)
    if not 1 <= n <= MOST_ROWS:
        msg = (
            f"a matrix of {n} rows cannot be seen entry by entry; draw 1 to {MOST_ROWS}: "
            "matrix[:500, :500], or the Hessian of problem.block('layers.3.*'), or one cell "
            "per layer: hs.plots.layer_map(hs.layer_map(problem))."
        )
        raise ValueError(msg)
    values = np.asarray(matrix.detach().double().cpu().numpy())
    bad = int((~np.isfinite(values)).sum())
    if bad:
        msg = (
            f"the matrix has {bad} entries that are NaN or infinite; hs.check_problem names the "
            "cause."
        )
        raise ValueError(msg)
    return values


def _edges(
    n: int, names: Sequence[str] | None, boundaries: Sequence[int] | Tensor | None
) -> list[int]:
    """Where blocks begin, and n.

    Raises:
        ValueError: if the boundaries are not in order or not rows, or the names not one a block.
    """
    given = range(n + 1) if boundaries is None else [int(row) for row in boundaries]
    edges = [0, *(row for row in given if row not in (0, n)), n]
    if any(below >= above for below, above in pairwise(edges)):
        msg = (
            f"boundaries={list(given)} do not cut {n} rows into blocks; they must ascend from 0 to "
            f"{n}, as torch.tensor(sizes).cumsum(0) does."
        )
        raise ValueError(msg)
    if names is not None and len(names) != len(edges) - 1:
        kind = "rows" if boundaries is None else "blocks"
        msg = (
            f"{len(names)} names for {len(edges) - 1} {kind}; give one each, and the rows at which "
            "named blocks begin as boundaries."
        )
        raise ValueError(msg)
    return edges


def _name_blocks(ax: Axes, edges: list[int], names: Sequence[str] | None) -> None:
    """A name beside and below the middle of each block, moved along where blocks are narrow."""
    n = edges[-1]
    if names is None:
        ax.set_xlabel("parameter")
        ax.set_ylabel("parameter")
        return
    box = ax.get_window_extent()
    points = min(box.width, box.height) * 72 / ax.figure.dpi  # of the side, for n rows
    font = min(FONT, max(SMALLEST_FONT, points / (1.35 * len(names))))
    middles = [(below + above) / 2 for below, above in pairwise(edges)]
    ax.set_xticks(middles, [""] * len(middles))
    ax.set_yticks(middles, [""] * len(middles))
    places = _spread(middles, 1.35 * font / points * n, n)
    line = {"arrowstyle": "-", "linewidth": 0.5, "color": LINE, "shrinkA": 1, "shrinkB": 0}
    for name, middle, place in zip(names, middles, places, strict=True):
        for xy, text_at, turn in (
            ((-0.01, middle), (-0.05, place), {"ha": "right", "va": "center"}),
            ((middle, -0.01), (place, -0.05), {"ha": "center", "va": "top", "rotation": 90}),
        ):
            along = ax.get_yaxis_transform() if "rotation" not in turn else ax.get_xaxis_transform()
            ax.annotate(
                name, xy, text_at, along, along, arrowprops=line, fontsize=font,
                annotation_clip=False, **turn,
            )  # fmt: skip


def _spread(places: list[float], gap: float, n: float) -> list[float]:
    """The ascending places, moved as little as a sweep up and one down need to be `gap` apart."""
    gap = min(gap, n / len(places))
    up = list(places)
    for i in range(1, len(up)):
        up[i] = max(up[i], up[i - 1] + gap)
    up[-1] = min(up[-1], max(places[-1], n - gap / 2))
    for i in reversed(range(len(up) - 1)):
        up[i] = min(up[i], up[i + 1] - gap)
    return up

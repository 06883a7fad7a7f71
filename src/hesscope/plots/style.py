"""Colours and axes that all figures share; matplotlib is imported here, when a figure is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POSITIVE, NEGATIVE, ZERO, MARK = "#2f6db3", "#c8553d", "#8a8f98", "#b8860b"


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The given axes, or those of a new figure that belongs to no window.

    Raises:
        RuntimeError: if matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        msg = "figures need matplotlib: pip install 'hesscope[plot]'."
        raise RuntimeError(msg) from error
    return Figure(figsize=size, layout="constrained").add_subplot()


def quiet(ax: Axes) -> None:
    """Takes off what carries no data: the upper and right spine, strong grid lines."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)

"""Colours, sizes and axes that all figures share; matplotlib is imported when a figure is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POSITIVE, NEGATIVE, ZERO, MARK = "#2f6db3", "#c8553d", "#8a8f98", "#b8860b"
WIDTHS = {"column": 3.3, "page": 6.8}  # inches: a column and the page of two-column papers
PAPER: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "lines.markersize": 3,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # letters stay letters, which journals ask for
    "ps.fonttype": 42,
}

_width: ContextVar[float | None] = ContextVar("hesscope_figure_width", default=None)
_detached: ContextVar[bool] = ContextVar("hesscope_figures_detached", default=False)


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The given axes, or those of a new figure, which notebooks show and `plt.savefig` writes.

    Raises:
        TypeError: if ax is none of matplotlib.
        RuntimeError: if matplotlib is not installed.
    """
    if ax is not None:
        if not hasattr(ax, "get_xaxis_transform"):
            msg = (
                f"ax is a {type(ax).__name__}; give one Axes of matplotlib, such as that of "
                "figure, ax = plt.subplots(), or one entry of an array of them."
            )
            raise TypeError(msg)
        return ax
    width = _width.get()
    if width is not None:
        size = (width, size[1] * width / size[0])
    _need_matplotlib()
    from matplotlib.figure import Figure

    if _detached.get():
        return Figure(figsize=size, layout="constrained").add_subplot()
    import matplotlib.pyplot as plt  # chooses where figures are shown

    return plt.figure(figsize=size, layout="constrained").add_subplot()


@contextmanager
def detached() -> Iterator[None]:
    """Inside, new figures are known to no window and no notebook: for whoever only writes files."""
    token = _detached.set(True)
    try:
        yield
    finally:
        _detached.reset(token)


@contextmanager
def paper_style(width: str | float = "column") -> Iterator[None]:
    """Inside, figures are as wide as a paper has room for, with letters and lines to match.

    Letters of 7 and 8 points at the size of print, which are embedded as text.

    Args:
        width: "column" (3.3 inches), "page" (6.8), or a number of inches.

    Raises:
        ValueError: if width is none of these.
        RuntimeError: if matplotlib is not installed.

    >>> import torch, hesscope as hs
    >>> spectrum = hs.spectrum(torch.diag(torch.tensor([4.0, 1.0, 0.0])))
    >>> with hs.plots.paper_style(width="column"):
    ...     ax = hs.plots.spectrum_histogram(spectrum)
    >>> float(ax.figure.get_size_inches()[0])
    3.3
    """
    inches = WIDTHS.get(width) if isinstance(width, str) else width
    if inches is None or isinstance(inches, bool) or not math.isfinite(inches) or inches <= 0:
        msg = f"width={width!r}; give 'column', 'page' or a number of inches."
        raise ValueError(msg)
    _need_matplotlib()
    import matplotlib as mpl

    token = _width.set(float(inches))
    try:
        with mpl.rc_context(PAPER):
            yield
    finally:
        _width.reset(token)


def _need_matplotlib() -> None:
    """Is it there?

    Raises:
        RuntimeError: if not.
    """
    try:
        import matplotlib  # noqa: F401  an optional dependency
    except ImportError as error:
        msg = "figures need matplotlib: pip install 'hesscope[plot]'."
        raise RuntimeError(msg) from error


def wanted(value: Any, kinds: type | tuple[type, ...], source: str) -> None:
    """Is this the kind of result that the figure shows?

    Raises:
        TypeError: if not; the message says which call gives one.
    """
    if isinstance(value, kinds):
        return
    names = kinds if isinstance(kinds, tuple) else (kinds,)
    kind = " or ".join(name.__name__ for name in names)
    msg = f"this figure shows a {kind}, not a {type(value).__name__}; give the result of {source}."
    raise TypeError(msg)


def quiet(ax: Axes) -> None:
    """Takes off what carries no data: the upper and right spine, strong grid lines."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)

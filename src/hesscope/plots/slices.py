"""Slices of a loss: a line with its parabola, a plane as contours or as a surface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hesscope.plots.colours import LINE
from hesscope.plots.style import MARK, NEGATIVE, POSITIVE, new_axes, quiet, wanted
from hesscope.results.slices import Slice
from hesscope.system.contexts import public

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize

LEVELS = 18  # contours between the lowest and the highest loss
COLOURS = "viridis"
MOST_TEXT = 46  # letters of a unit that an axis has room for


@public
def line(
    result: Slice,
    *,
    ax: Axes | None = None,
    log: bool = False,
    label: str | None = None,
    color: Any = None,
) -> Axes:
    """The loss along one direction, the parabola of its derivatives dashed, test data dotted.

    Of a slice in two directions, the line through θ along the first. Where a loss is not finite the
    line has a gap. The parabola is cut off where it leaves the range of the losses.

    Args:
        result: of `hs.loss_slice`.
        ax: where to draw; by default a new figure.
        log: losses on a logarithmic axis; they have to be positive.
        label: of this line, for the legend, in front of what is drawn.
        color: one for all that belongs to this line, so that several can be told apart.

    Raises:
        TypeError: if it is no slice.
        ValueError: if there is nothing to draw, or no logarithm of it.
        RuntimeError: if matplotlib is not installed.
    """
    wanted(result, Slice, "hs.loss_slice(problem, directions)")
    t, losses = result.axes[0].numpy(), _along(result, result.losses)
    _check(losses, log)
    ax = new_axes(ax, (5.6, 3.6))
    of = "" if label is None else f"{label}: "
    ax.plot(t, losses, color=color or POSITIVE, linewidth=1.7, label=f"{of}loss")
    if result.test_losses is not None:
        tested = _along(result, result.test_losses)
        ax.plot(t, tested, ":", color=color or MARK, linewidth=1.6, label=f"{of}loss on test data")
    if result.slopes is not None and result.curvatures is not None:
        name = f"{of}parabola: slope {float(result.slopes[0]):.3g}, "
        name += f"curvature {float(result.curvatures[0, 0]):.4g}"
        parabola = _cut(result.predicted(0).numpy(), losses, log)
        ax.plot(t, parabola, "--", color=color or NEGATIVE, linewidth=1.2, label=name)
    ax.plot([0], [result.loss], "o", color=color or LINE, markersize=4.5, label=f"{of}θ")
    if log:
        ax.set_yscale("log")
    ax.set_xlabel(_axis_label(result, 0))
    ax.set_ylabel("mean loss")
    ax.legend(fontsize=8, frameon=False)
    quiet(ax)
    return ax


@public
def contour(
    result: Slice, *, ax: Axes | None = None, log: bool = False, share: Sequence[Slice] = ()
) -> Axes:
    """The loss on a plane as filled contours, θ as a point, a trajectory as a line.

    Grey is where the loss is not finite. Below the picture stands what it hides.

    Args:
        result: of `hs.loss_slice` in two directions.
        ax: where to draw; by default a new figure.
        log: colours by the logarithm of the loss, which has to be positive.
        share: other slices, whose losses the scale of colours covers too: panels that share it can
            be compared.

    Raises:
        ValueError: if the slice has one direction, nothing finite, or no logarithm.
        RuntimeError: if matplotlib is not installed.
    """
    losses = _plane(result, log)
    ax = new_axes(ax, (5.6, 4.8))
    norm, levels = _colours([result, *share], log)
    a, b = (axis.numpy() for axis in result.axes)
    ax.set_facecolor("#d5d7da")
    filled = ax.contourf(a, b, losses.T, levels=levels, norm=norm, cmap=COLOURS, extend="neither")
    ax.contour(a, b, losses.T, levels=levels, colors="white", linewidths=0.35, alpha=0.6)
    _mark(ax, result)
    ax.set_xlabel(_axis_label(result, 0))
    ax.set_ylabel(_axis_label(result, 1))
    ax.locator_params(nbins=6)
    bar = ax.figure.colorbar(filled, ax=ax, label="mean loss", pad=0.02)
    _tick_bar(bar, levels)
    hidden = _hidden(result)
    if hidden:
        ax.set_title(hidden, fontsize=8, loc="left", color=LINE)
    return ax


@public
def surface(
    result: Slice, *, ax: Axes | None = None, log: bool = False, share: Sequence[Slice] = ()
) -> Axes:
    """The loss on a plane as a surface, with the parabolas of its derivatives dashed on it.

    Args:
        result: of `hs.loss_slice` in two directions.
        ax: three-dimensional axes (`projection="3d"`); by default a new figure.
        log: height and colour by log10 of the loss, which has to be positive.
        share: other slices, whose losses the scale of colours covers too.

    Raises:
        ValueError: if the slice has one direction, nothing finite, no logarithm, or the axes are
            flat.
        RuntimeError: if matplotlib is not installed.
    """
    losses = _plane(result, log)
    ax3 = _axes_3d(ax)
    height = np.log10(losses) if log else losses
    norm, _ = _colours([result, *share], log)
    a, b = np.meshgrid(*(axis.numpy() for axis in result.axes), indexing="ij")
    from matplotlib import colormaps  # an optional dependency

    faces = colormaps[COLOURS](norm(np.nan_to_num(losses, nan=float(norm.vmin or 0.0))))
    ax3.plot_surface(
        a, b, height, facecolors=faces, rstride=1, cstride=1, linewidth=0, shade=False, alpha=0.92
    )
    if result.slopes is not None:
        _parabolas(ax3, result, height, log)
    ax3.scatter([0], [0], [np.log10(result.loss) if log else result.loss], color=LINE, s=22)
    ax3.set_xlabel(result.directions.names[0], fontsize=8)
    ax3.set_ylabel(result.directions.names[1], fontsize=8)
    ax3.set_zlabel("log10 of the mean loss" if log else "mean loss", fontsize=8)
    ax3.tick_params(labelsize=7)
    title = [f"1 on an axis: {_short(result.directions.unit)}", _hidden(result)]
    ax3.set_title("\n".join(filter(None, title)), fontsize=8, loc="left", color=LINE)
    return ax3


def _axes_3d(ax: Axes | None) -> Any:
    """Three-dimensional axes.

    Raises:
        ValueError: if those given are flat.
    """
    if ax is None:
        flat = new_axes(None, (6.2, 5.2))
        figure: Any = flat.figure
        flat.remove()
        return figure.add_subplot(projection="3d")
    if not hasattr(ax, "plot_surface"):
        msg = "ax is flat; make it with figure.add_subplot(projection='3d'), or use contour."
        raise ValueError(msg)
    return ax


def _parabolas(ax: Any, result: Slice, height: np.ndarray, log: bool) -> None:
    """What slope and curvature promise along both directions, within the height of the surface."""
    top, low = np.nanmax(height), np.nanmin(height)
    for i in (0, 1):
        t = result.axes[i].numpy()
        promised = result.predicted(i).numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.log10(promised) if log else promised
        z = np.where((z <= top) & (z >= low - 0.1 * (top - low)), z, np.nan)
        place = (t, np.zeros_like(t), z) if i == 0 else (np.zeros_like(t), t, z)
        label = "parabola of slope and curvature" if i == 0 else None
        ax.plot(*place, "--", color=NEGATIVE, linewidth=1.3, zorder=10, label=label)
    ax.legend(fontsize=8, frameon=False, loc="upper right")  # the names of axes are below


def _mark(ax: Axes, result: Slice) -> None:
    """θ, and the trajectory that the directions came from."""
    path = result.directions.trajectory
    if path is not None and path.shape[1] == 2:
        ax.plot(
            *path.T.numpy(), "-o", color="white", markersize=2.5, linewidth=1.0, label="training"
        )
    ax.plot([0], [0], "*", color=NEGATIVE, markersize=11, markeredgecolor="white", label="θ")
    ax.legend(fontsize=8, loc="upper right", framealpha=0.85, facecolor=LINE, labelcolor="white")


def _colours(slices: Sequence[Slice], log: bool) -> tuple[Normalize, np.ndarray]:
    """One scale for the losses of all, and the levels of contours on it."""
    from matplotlib.colors import LogNorm, Normalize  # an optional dependency

    values = np.concatenate([s.losses.numpy().ravel() for s in slices])
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if high <= low:
        high = low + (abs(low) or 1.0) * 1e-6
    if log:
        return LogNorm(low, high), np.geomspace(low, high, LEVELS)
    return Normalize(low, high), np.linspace(low, high, LEVELS)


def _tick_bar(bar: Any, levels: np.ndarray) -> None:
    ticks = levels[:: max(1, (len(levels) - 1) // 5)]
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.ax.minorticks_off()


def _hidden(result: Slice) -> str:
    """What of the curvature lies in the picture, in words."""
    parts = []
    for share, what in ((result.trace_share, "the trace"), (result.magnitude_share, "Σ|λ|")):
        if share is not None:
            parts.append(f"{100 * share.value:.3g} ± {100 * share.stderr:.1g} % of {what}")
    return f"in this plane: {', '.join(parts)}" if parts else ""


def _axis_label(result: Slice, i: int) -> str:
    return f"{result.directions.names[i]}\n(1 = {_short(result.directions.unit)})"


def _short(unit: str) -> str:
    return unit if len(unit) <= MOST_TEXT else f"{unit[: MOST_TEXT - 1]}…"


def _along(result: Slice, losses: Any) -> np.ndarray:
    """The losses on the line through θ along the first direction, NaN where not finite."""
    if len(result.axes) == 2:
        losses = losses[:, int(result.axes[1].abs().argmin())]
    return np.where(np.isfinite(losses.numpy()), losses.numpy(), np.nan)


def _plane(result: Slice, log: bool) -> np.ndarray:
    """The losses (a, b), NaN where not finite.

    Raises:
        TypeError: if it is no slice.
        ValueError: if the slice is a line, or has nothing to draw.
    """
    wanted(result, Slice, "hs.loss_slice(problem, directions)")
    if len(result.axes) != 2:
        msg = "the slice has one direction; draw it with hs.plots.line."
        raise ValueError(msg)
    losses = np.where(np.isfinite(result.losses.numpy()), result.losses.numpy(), np.nan)
    _check(losses, log)
    return losses


def _check(losses: np.ndarray, log: bool) -> None:
    """Refuses what cannot be drawn.

    Raises:
        ValueError: if no loss is finite, or one is not positive where logarithms are asked for.
    """
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        msg = "no loss of the slice is finite; make it with a smaller span."
        raise ValueError(msg)
    if log and finite.min() <= 0:
        msg = f"the lowest loss is {finite.min():.3g} and has no logarithm; draw with log=False."
        raise ValueError(msg)


def _cut(parabola: np.ndarray, losses: np.ndarray, log: bool) -> np.ndarray:
    """The parabola where it is near the range of the losses."""
    low, high = np.nanmin(losses), np.nanmax(losses)
    room = 0.15 * (high - low)
    bottom = low / 2 if log else low - room
    return np.where((parabola <= high + room) & (parabola >= bottom), parabola, np.nan)

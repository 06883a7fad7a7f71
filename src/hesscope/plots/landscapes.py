"""The loss along lines between two points, with the barriers over their chords."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hesscope.plots.colours import LINE, sequence
from hesscope.plots.style import NEGATIVE, POSITIVE, new_axes, quiet, wanted
from hesscope.results.landscape import LossLine
from hesscope.results.paths import LossPath
from hesscope.system.contexts import public

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 100  # ratio of losses of several lines from which their axis is logarithmic
MOST_LINES = 12  # lines that a legend can tell apart


@public
def interpolation(
    line_or_lines: LossLine | Sequence[LossLine],
    *,
    ax: Axes | None = None,
    labels: Sequence[str] | None = None,
    color: Any = None,
) -> Axes:
    """The loss over t on the line θ_a + t (θ_b - θ_a), its ends, its chord dashed, its barrier.

    Several lines, such as those between two runs at several steps of training, go from dark to
    light in their order, each with its barrier as a thin upright stroke over the chord and as a
    number in the legend. Their axis of losses is logarithmic where these are positive and span
    more than a factor of 100; chords are then curves. Triangles at the upper edge mark infinite
    losses; where a loss is NaN the line has a gap. Losses on test data are dotted.

    Args:
        line_or_lines: results of `hs.interpolate`, up to 12.
        ax: where to draw; by default a new figure.
        labels: one for each line, such as the steps of training.
        color: of all lines; by default those of one call are told apart.

    Raises:
        TypeError: if it is neither a line nor a sequence of lines.
        ValueError: if there is nothing to draw or too much, or the labels do not fit the lines.
        RuntimeError: if matplotlib is not installed.
    """
    if not isinstance(line_or_lines, (list, tuple)):
        wanted(line_or_lines, LossLine, "hs.interpolate(problem, theta_a, theta_b), or a list")
        line_or_lines = [line_or_lines]  # type: ignore[list-item]
    lines = list(line_or_lines)
    _check(lines, labels)
    ax = new_axes(ax, (5.6, 3.4))
    colours = [POSITIVE] if len(lines) == 1 else sequence(len(lines))
    colours = colours if color is None else [color] * len(lines)
    names = labels or [f"line {i + 1}" for i in range(len(lines))]
    for line, colour, name in zip(lines, colours, names, strict=True):
        _line(ax, line, colour, f"{name}: {_height(line)}" if len(lines) > 1 else name)
        (_barrier_arrow if len(lines) == 1 else _barrier_stroke)(ax, line, colour)
    if len(lines) > 1 or labels:
        ax.legend(
            loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, fontsize=8, frameon=False,
            handlelength=1.2, columnspacing=1.2, borderaxespad=0.2, alignment="left",
            title="barrier over the dashed chord" if len(lines) > 1 else None, title_fontsize=8,
        )  # fmt: skip
    if len(lines) > 1 and _is_wide(lines):
        ax.set_yscale("log")
    ax.set_xlim(-0.03, 1.03)
    ax.set_xticks(np.linspace(0, 1, 5), ["0\n$θ_a$", "0.25", "0.5", "0.75", "1\n$θ_b$"])
    ax.set_xlabel(r"$t$ on the line $θ_a + t\,(θ_b - θ_a)$")
    tested = any(line.test_losses is not None for line in lines)
    ax.set_ylabel("mean loss (dotted: test data)" if tested else "mean loss")
    quiet(ax)
    return ax


@public
def path(result: LossPath, *, ax: Axes | None = None) -> Axes:
    """The loss on the straight line, on the line after matching, and on the curve between two ends.

    Each with its barrier in the legend; losses on test data are dotted.

    Args:
        result: of `hs.loss_path`.
        ax: where to draw; by default a new figure.

    Raises:
        TypeError: if it is no path.
        RuntimeError: if matplotlib is not installed.
    """
    wanted(result, LossPath, "hs.loss_path(problem, theta_a, theta_b)")
    named = [("line", result.line), ("line after matching units", result.matched)]
    num = len(result.bends)
    named.append((f"{result.kind}, {num} bend{'s' if num > 1 else ''}", result.curve))
    shown = [(name, line) for name, line in named if line is not None]
    ax = interpolation([line for _, line in shown], ax=ax, labels=[name for name, _ in shown])
    ax.set_xlabel("$t$ along the line or the curve")
    return ax


def _check(lines: list[LossLine], labels: Sequence[str] | None) -> None:
    """Can these be drawn in one figure?

    Raises:
        ValueError: if not.
    """
    others = [type(line).__name__ for line in lines if not isinstance(line, LossLine)]
    if not lines or others:
        given = f"the list holds a {others[0]}" if others else "there is no line to draw"
        msg = f"{given}; give results of hs.interpolate(problem, theta_a, theta_b)."
        raise ValueError(msg)
    if len(lines) > MOST_LINES:
        every = -(-len(lines) // MOST_LINES)
        msg = f"{len(lines)} lines cannot be told apart; draw one of {every}, lines[::{every}]."
        raise ValueError(msg)
    if labels is not None and len(labels) != len(lines):
        msg = f"{len(labels)} labels for {len(lines)} lines; give one for each."
        raise ValueError(msg)


def _height(line: LossLine) -> str:
    if math.isnan(line.barrier):
        return "unknown"
    if line.barrier <= line.rounding:
        return "none"
    return "∞" if math.isinf(line.barrier) else f"{line.barrier:.3g}"


def _line(ax: Axes, line: LossLine, colour: object, label: str) -> None:
    """Losses, ends, chord and infinities of one line."""
    t, losses, chord = line.points.numpy(), line.losses.numpy().copy(), line.chord.numpy()
    infinite = np.isposinf(losses)
    losses[~np.isfinite(losses)] = np.nan
    ax.plot(t, losses, color=colour, linewidth=1.6, label=label)
    ax.plot(t[[0, -1]], losses[[0, -1]], "o", color=colour, markersize=4.5)
    if line.test_losses is not None:
        tested = line.test_losses.numpy()
        ax.plot(t, np.where(np.isfinite(tested), tested, np.nan), ":", color=colour, linewidth=1.4)
    if np.isfinite(chord).all():
        ax.plot(t, chord, "--", color=colour, linewidth=0.9)
    if infinite.any():
        top = np.full(int(infinite.sum()), 0.985)
        ax.plot(t[infinite], top, "^", color=NEGATIVE, ms=4, transform=ax.get_xaxis_transform())


def _barrier_stroke(ax: Axes, line: LossLine, colour: object) -> None:
    """The barrier as a thin line from the chord to the loss."""
    if line.rounding < line.barrier < math.inf:
        ax.vlines(line.barrier_at, *_ends(line), color=colour, linewidth=0.9)


def _barrier_arrow(ax: Axes, line: LossLine, _: object) -> None:
    """The barrier as an arrow from the chord to the loss, with its height."""
    text = f"barrier: {_height(line)}"
    if not line.rounding < line.barrier < math.inf:
        infinite = "  (▲ infinite loss)" if bool(line.losses.isposinf().any()) else ""
        ax.set_title(text + infinite, fontsize=9, loc="right", color=LINE)
        return
    t, (low, high) = line.barrier_at, _ends(line)
    arrow = {"arrowstyle": "<->", "color": NEGATIVE, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2}
    ax.annotate("", (t, high), (t, low), arrowprops=arrow)
    side, place = ("left", 5) if t < 0.7 else ("right", -5)  # the text stays inside
    ax.annotate(
        text, (t, low + 0.3 * (high - low)), (place, 0), textcoords="offset points",
        ha=side, va="center", color=NEGATIVE, fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
    )  # fmt: skip


def _ends(line: LossLine) -> tuple[float, float]:
    """The chord and the loss where the barrier is."""
    at = int((line.points - line.barrier_at).abs().argmin())
    return float(line.chord[at]), float(line.losses[at])


def _is_wide(lines: list[LossLine]) -> bool:
    losses = np.concatenate([line.losses.numpy() for line in lines])
    finite = losses[np.isfinite(losses)]
    return len(finite) > 0 and finite.min() > 0 and finite.max() > WIDE * finite.min()

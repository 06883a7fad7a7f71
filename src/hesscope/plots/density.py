"""A spectral density as counts with their intervals, as a cumulative band, or as a curve."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from hesscope import rounding
from hesscope.plots import symlog
from hesscope.plots.style import MARK, NEGATIVE, POSITIVE, ZERO, new_axes, quiet, wanted
from hesscope.results.density import SpectralDensity
from hesscope.system.contexts import public

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PER_DECADE = 2  # bins, wide enough for their intervals to be readable
LEVEL = 0.95
INK = "#14171a"
NONE = "there may be none"
KERNEL = 1 / 100  # standard deviation of the curve's kernel, of the range of eigenvalues
POINTS = 1_000  # of the curve
FAINTEST = 1e-7  # of the curve's largest value: what is drawn below is the kernel alone


class Law(Protocol):
    """A distribution to compare with, such as those of `hesscope.rmt`."""

    def cdf(self, x: torch.Tensor) -> torch.Tensor:
        """The share of eigenvalues up to x."""


@public
def density(
    result: SpectralDensity,
    *,
    kind: Literal["counts", "cdf", "curve"] = "counts",
    law: Law | None = None,
    tau: float | None = None,
    width: float | None = None,
    ax: Axes | None = None,
    label: str | None = None,
    color: Any = None,
) -> Axes:
    """The spectrum: how many eigenvalues lie where, and how sure that is.

    "counts" draws the best single count per bin as a bar and, as a line, the interval that holds
    for it; all intervals together hold with probability 0.95. A bar is hatched and grey where its
    interval begins at zero: there may be none. "cdf" draws the band that holds the cumulative share
    of eigenvalues at all thresholds together. "curve" is the picture that other tools draw, nodes
    smoothed by a Gaussian kernel over a linear axis: the axis says how wide the kernel is, and
    nothing is guaranteed. Marks along the upper edge are the outliers, which count exactly. Except
    in a curve, eigenvalues within ± tau share the grey bin in the middle.

    Args:
        result: of `hs.spectral_density`.
        kind: what to draw.
        law: a law of random matrix theory to draw beside it; the legend gives the largest distance
            between the two cumulative shares. A comparison, not a test. Not in a curve.
        tau: half the width of the middle bin, by default `result.tau`.
        width: standard deviation of the curve's kernel, by default a hundredth of the range.
        ax: axes to draw on, over what is there.
        label: of this density, for the legend.
        color: one for all of it, so that several can be told apart.

    Raises:
        TypeError: if it is no density.
        ValueError: if kind, tau, width or law is not usable.
        RuntimeError: if matplotlib is not installed.
    """
    _check(result, kind, law, width)
    ax = new_axes(ax, (7.2, 3.8))
    if kind == "curve":
        _curve(ax, result, width, label, color)
        return ax
    tau = tau or max(result.tau, rounding.LOST)
    size = max(result.size, 10 * tau)
    edges = symlog.bin_edges(tau, size, PER_DECADE)
    (_counts if kind == "counts" else _band)(ax, result, edges, label, color)
    if law is not None:
        _compare(ax, result, law, edges, kind)
    low = min(float(result.nodes.min()), -2 * tau)
    high = max(float(result.nodes.max()), 2 * tau)
    symlog.scale_x(ax, tau, *symlog.covering(ax, 1.6 * low, 1.6 * high))
    _rug(ax, result, label, color or MARK)
    ax.set_xlabel(f"eigenvalue (|λ| ≤ {tau:.0e} called zero)")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.94), fontsize="small")
    quiet(ax)
    return ax


def _check(result: SpectralDensity, kind: str, law: Law | None, width: float | None) -> None:
    """Can this be drawn?

    Raises:
        TypeError: if it is no density.
        ValueError: if kind, width or law is not usable.
    """
    wanted(result, SpectralDensity, "hs.spectral_density(A)")
    if kind not in ("counts", "cdf", "curve"):
        msg = f"kind={kind!r}; choose 'counts', 'cdf' or 'curve'."
        raise ValueError(msg)
    if width is not None and (kind != "curve" or not width > 0):
        msg = f"width={width!r} is that of the kernel of kind='curve', a number above zero."
        raise ValueError(msg)
    if law is not None and kind == "curve":
        msg = "a curve is smoothed, and a law is not; draw the law with kind='counts' or 'cdf'."
        raise ValueError(msg)


def _curve(
    ax: Axes, result: SpectralDensity, width: float | None, label: str | None, color: Any
) -> None:
    """Σ wᵢ N(x; λᵢ, width²) over x, on a logarithmic axis."""
    nodes, weights = result.nodes.numpy(), result.weights.numpy()
    span = float(nodes[-1] - nodes[0]) or max(abs(float(nodes[0])), rounding.LOST)
    width = KERNEL * span if width is None else width
    x = np.linspace(nodes[0] - 5 * width, nodes[-1] + 5 * width, POINTS)
    z = (x[:, None] - nodes[None]) / width
    heights = (np.exp(-(z**2) / 2) @ weights) / (width * np.sqrt(2 * np.pi))
    ax.plot(x, heights, color=color or POSITIVE, linewidth=1.5, label=label)
    ax.set_yscale("log")
    top = max([float(line.get_ydata().max()) for line in ax.get_lines()])  # type: ignore[union-attr]
    ax.set_ylim(FAINTEST * top, 3 * top)
    ax.set_xlabel(f"eigenvalue (smoothed by a Gaussian of width {width:.1e})")
    ax.set_ylabel("density of eigenvalues")
    if label is not None:
        ax.legend(frameon=False, fontsize="small")
    quiet(ax)


def _counts(
    ax: Axes, result: SpectralDensity, edges: np.ndarray, label: str | None, color: Any
) -> None:
    pairs = itertools.pairwise(edges.tolist())
    bins = [(a, b) for a, b in pairs if b >= result.lower and a <= result.upper]
    level = 1 - (1 - LEVEL - result.delta) / len(bins) - result.delta
    for a, b in bins:
        interval = result.count(a, b, level)
        colour = color or (NEGATIVE if b <= 0 else POSITIVE if a >= 0 else ZERO)
        expected = result.expected(a, b)
        if expected > 0:
            _bar(ax, a, b, expected, colour, certain=interval.low > 0)
        if interval.high > 0:
            _whisker(ax, a, b, interval.low, interval.high, color or INK)
    told = f"holds the count, all at {LEVEL:.0%}"
    ax.plot([], [], color=color or INK, linewidth=1.1, label=f"{label}: {told}" if label else told)
    ax.set_yscale("log")
    ax.set_ylim(0.6, max(3 * result.n, ax.get_ylim()[1]))
    ax.set_ylabel("eigenvalues per bin")


def _bar(ax: Axes, a: float, b: float, count: float, colour: Any, *, certain: bool) -> None:
    """The best single count; without colour of its own where there may be none at all."""
    if certain:
        ax.bar(a, count, b - a, align="edge", color=colour, linewidth=0, alpha=0.85)
        return
    told = NONE if NONE not in ax.get_legend_handles_labels()[1] else None
    ax.bar(
        a, count, b - a, align="edge", color="none", edgecolor=ZERO, hatch="////", linewidth=0,
        label=told,
    )  # fmt: skip


def _whisker(ax: Axes, a: float, b: float, low: float, high: float, colour: Any) -> None:
    """A line from the least to the largest count, at the middle of the bin on a symlog axis."""
    middle = 0.0 if a < 0 < b else np.sign(a + b) * np.sqrt(abs(a * b))
    ax.vlines(middle, max(low, 0.6), max(high, 0.6), color=colour, linewidth=1.1)


def _band(
    ax: Axes, result: SpectralDensity, edges: np.ndarray, label: str | None, color: Any
) -> None:
    low, high = result.band(torch.from_numpy(edges))
    colour = color or POSITIVE
    told = f"holds all, {LEVEL:.0%}"
    ax.fill_between(
        edges, low, high, color=colour, alpha=0.3, linewidth=0,
        label=f"{label}: {told}" if label else told,
    )  # fmt: skip
    shares = [result.expected(high=float(x)) / result.n for x in edges]
    ax.plot(edges, shares, color=colour, linewidth=1.2)
    ax.set_ylim(-0.02, 1.06)
    ax.set_ylabel("share of eigenvalues up to here")


def _compare(ax: Axes, result: SpectralDensity, law: Law, edges: np.ndarray, kind: str) -> None:
    """The law in the same bins, and the largest distance of the two cumulative shares."""
    cumulative = law.cdf(torch.from_numpy(edges)).numpy()
    ours = np.array([result.expected(high=float(x)) / result.n for x in edges])
    distance = float(np.abs(cumulative - ours).max())
    label = f"{type(law).__name__}, largest distance {distance:.2f}"
    if kind == "cdf":
        ax.plot(edges, cumulative, color=MARK, linewidth=1.4, linestyle="--", label=label)
    else:
        counts = np.maximum(np.diff(cumulative) * result.n, 0.0)
        ax.stairs(counts, edges, color=MARK, linewidth=1.4, linestyle="--", label=label)


def _rug(ax: Axes, result: SpectralDensity, label: str | None, colour: Any) -> None:
    """Marks for single outliers along the upper edge."""
    if len(result.outliers) == 0 or len(result.outliers) == result.n:
        return
    ax.plot(
        result.outliers.numpy(),
        np.full(len(result.outliers), 0.975),
        "|",
        color=colour,
        ms=9,
        mew=1.1,
        label=None if label else f"{len(result.outliers)} single outliers",
        transform=ax.get_xaxis_transform(),
        clip_on=False,
    )

"""A spectral density as counts with the intervals that hold for them, or as a cumulative band."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch

from hesscope import rounding
from hesscope.plots import symlog
from hesscope.plots.style import MARK, NEGATIVE, POSITIVE, ZERO, new_axes, quiet
from hesscope.results.density import SpectralDensity
from hesscope.system.contexts import public

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PER_DECADE = 2  # bins, wide enough for their intervals to be readable
LEVEL = 0.95


class Law(Protocol):
    """A distribution to compare with, such as those of `hesscope.rmt`."""

    def cdf(self, x: torch.Tensor) -> torch.Tensor:
        """The share of eigenvalues up to x."""


@public
def density(
    result: SpectralDensity,
    *,
    kind: Literal["counts", "cdf"] = "counts",
    law: Law | None = None,
    tau: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The spectrum on a symlog axis: how many eigenvalues, and how sure that is.

    "counts" draws the best single count per bin as a bar and, as a line, the interval that holds
    for it; all intervals together hold with probability 0.95. "cdf" draws the band that holds the
    cumulative share of eigenvalues at all thresholds together. Marks along the upper edge are the
    outliers, which count exactly. Eigenvalues within ± tau share the grey bin in the middle.

    Args:
        result: the density.
        kind: what to draw.
        law: a law of random matrix theory to draw beside it; the legend gives the largest distance
            between the two cumulative shares. A comparison, not a test.
        tau: half the width of the middle bin, by default `result.tau`.
        ax: axes to draw on.

    Raises:
        ValueError: if kind or tau is not usable.
        RuntimeError: if matplotlib is not installed.
    """
    if kind not in ("counts", "cdf"):
        msg = f"kind={kind!r}; choose 'counts' or 'cdf'."
        raise ValueError(msg)
    tau = tau or max(result.tau, rounding.LOST)
    ax = new_axes(ax, (7.2, 3.8))
    size = max(result.size, 10 * tau)
    edges = symlog.bin_edges(tau, size, PER_DECADE)
    if kind == "counts":
        _counts(ax, result, edges)
    else:
        _band(ax, result, edges)
    if law is not None:
        _compare(ax, result, law, edges, kind)
    low = min(float(result.nodes.min()), -2 * tau)
    high = max(float(result.nodes.max()), 2 * tau)
    symlog.scale_x(ax, tau, 1.6 * low, 1.6 * high)
    _rug(ax, result)
    ax.set_xlabel(
        f"eigenvalue (middle bin within ± {tau:.0e} = {tau / size:.0e} of the largest: called zero)"
    )
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.94), fontsize="small")
    quiet(ax)
    return ax


def _counts(ax: Axes, result: SpectralDensity, edges: np.ndarray) -> None:
    pairs = itertools.pairwise(edges.tolist())
    bins = [(a, b) for a, b in pairs if b >= result.lower and a <= result.upper]
    level = 1 - (1 - LEVEL - result.delta) / len(bins) - result.delta
    for a, b in bins:
        interval = result.count(a, b, level)
        colour = NEGATIVE if b <= 0 else POSITIVE if a >= 0 else ZERO
        expected = result.expected(a, b)
        if expected > 0:
            ax.bar(a, expected, b - a, align="edge", color=colour, linewidth=0, alpha=0.85)
        if interval.high > 0:
            _whisker(ax, a, b, interval.low, interval.high)
    ax.plot([], [], color="#14171a", linewidth=1.1, label=f"holds the count, all at {LEVEL:.0%}")
    ax.set_yscale("log")
    ax.set_ylim(0.6, 3 * result.n)
    ax.set_ylabel("eigenvalues per bin")


def _whisker(ax: Axes, a: float, b: float, low: float, high: float) -> None:
    """A line from the least to the largest count, at the middle of the bin on a symlog axis."""
    middle = 0.0 if a < 0 < b else np.sign(a + b) * np.sqrt(abs(a * b))
    ax.vlines(middle, max(low, 0.6), max(high, 0.6), color="#14171a", linewidth=1.1)


def _band(ax: Axes, result: SpectralDensity, edges: np.ndarray) -> None:
    low, high = result.band(torch.from_numpy(edges))
    ax.fill_between(
        edges, low, high, color=POSITIVE, alpha=0.3, linewidth=0, label=f"holds all, {LEVEL:.0%}"
    )
    shares = [result.expected(high=float(x)) / result.n for x in edges]
    ax.plot(edges, shares, color=POSITIVE, linewidth=1.2)
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


def _rug(ax: Axes, result: SpectralDensity) -> None:
    """Marks for single outliers along the upper edge."""
    if len(result.outliers) == 0 or len(result.outliers) == result.n:
        return
    ax.plot(
        result.outliers.numpy(),
        np.full(len(result.outliers), 0.975),
        "|",
        color=MARK,
        ms=9,
        mew=1.1,
        label=f"{len(result.outliers)} single outliers",
        transform=ax.get_xaxis_transform(),
        clip_on=False,
    )

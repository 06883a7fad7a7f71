"""How the whole spectrum moves during training: a heat map or ridges over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from hesscope.plots import symlog
from hesscope.plots.style import NEGATIVE, POSITIVE, ZERO, new_axes, quiet
from hesscope.results.density import SpectralDensity
from hesscope.results.spectrum import Spectrum
from hesscope.system.contexts import public

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS_PER_DECADE = 6
MOST_RIDGES = 24  # that can be told apart
HIGHEST = 0.9  # the height of the highest bar, in distances between ridges
LEAST = 0.5  # eigenvalues that a bin of a density is expected to hold, for it to be drawn
UNEVEN = 20  # ratio of gaps between steps from which the axis of steps is logarithmic
DEFAULT_TAU = 1e-6  # of the largest absolute eigenvalue of all steps


@public
def spectra_over_training(
    steps: Sequence[float],
    spectra: Sequence[Spectrum | SpectralDensity] | Tensor,
    *,
    tau: float | None = None,
    relative: float | None = None,
    kind: str = "heatmap",
    ax: Axes | None = None,
) -> Axes:
    """The number of eigenvalues in each bin of a symlog axis, at each step of training.

    What counts as zero decides what such a figure tells, so the axis states it. With `tau` the
    eigenvalues themselves are drawn and those within ± tau share one bin, at every step the same:
    a spectrum that shrinks as a whole moves into it. With `relative` each step's eigenvalues are
    divided by its own largest absolute one, and those within ± relative of it share the bin: a
    spectrum that shrinks as a whole stays where it is. By default tau is 1e-6 of the largest
    absolute eigenvalue of all steps, at least ten times the errors of the spectra.

    Steps whose spectrum is not finite are left blank. Where the largest distance between steps is
    more than 20 times the smallest, the heat map's axis of steps is logarithmic.

    Args:
        steps: ascending, one for each spectrum.
        spectra: of the same problem at these steps: results of `hs.spectrum`, eigenvalues (steps,
            n), such as those of `hs.ensemble.spectra`, or densities, whose counts are expected ones
            and where tau is that of the densities at least.
        tau: the absolute threshold, in the units of the eigenvalues.
        relative: the threshold as a fraction of the largest absolute eigenvalue of each step.
        kind: "heatmap" draws counts as colours, log scale, over the steps; "ridge" one histogram
            per step, heights log(1 + count), the first at the bottom, up to 24 of them, with the
            number of those called zero in the middle.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: if steps and spectra do not fit each other, a threshold is not positive, both
            are given, or the kind is not known.
        RuntimeError: if matplotlib is not installed.
    """
    if kind not in {"heatmap", "ridge"}:
        msg = f"kind={kind!r} is not known; there are 'heatmap' and 'ridge'."
        raise ValueError(msg)
    _check_thresholds(tau, relative)
    at, rows = _rows(steps, spectra)
    counted = _count(at, rows, tau, relative, _least_tau(spectra))
    return _heatmap(counted, ax) if kind == "heatmap" else _ridges(counted, ax)


@dataclass(frozen=True)
class _Counted:
    """What is drawn: counts (steps, bins) and the label of the eigenvalue axis."""

    steps: np.ndarray
    counts: np.ndarray
    edges: np.ndarray
    tau: float
    label: str


@dataclass(frozen=True)
class _Row:
    """Eigenvalues of one step, and how many each stands for."""

    values: np.ndarray
    weights: np.ndarray | None = None

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.values).all())

    @property
    def largest(self) -> float:
        return float(np.abs(self.values).max(initial=0.0)) if self.is_finite else 0.0

    def counts(self, edges: np.ndarray, unit: float) -> np.ndarray:
        """How many lie in each bin, in units of so much; none where they are not finite."""
        if not self.is_finite:
            return np.zeros(len(edges) - 1, dtype=int)
        return np.histogram(self.values / unit, edges, weights=self.weights)[0]


def _row(spectrum: Spectrum | SpectralDensity) -> _Row:
    if isinstance(spectrum, SpectralDensity):
        weights = (spectrum.weights * spectrum.n).double().cpu().numpy()
        return _Row(spectrum.nodes.double().cpu().numpy(), weights)
    return _Row(spectrum.eigenvalues.double().cpu().numpy())


def _least_tau(spectra: Sequence[Spectrum | SpectralDensity] | Tensor) -> float:
    """Below this, no eigenvalue can be told from zero."""
    if isinstance(spectra, Tensor):
        return 0.0
    least = [s.tau if isinstance(s, SpectralDensity) else 10 * s.error for s in spectra]
    return max(least, default=0.0)


def _rows(
    steps: Sequence[float], spectra: Sequence[Spectrum | SpectralDensity] | Tensor
) -> tuple[np.ndarray, list[_Row]]:
    """Steps, and the eigenvalues at each.

    Raises:
        ValueError: if they do not fit each other, or nothing is finite.
    """
    if isinstance(spectra, Tensor):
        if spectra.ndim != 2:
            msg = f"spectra have shape {tuple(spectra.shape)}; give (steps, n), a row per step."
            raise ValueError(msg)
        rows = [_Row(row) for row in spectra.detach().double().cpu().numpy()]
    else:
        rows = [_row(spectrum) for spectrum in spectra]
    at = np.array([float(step) for step in steps])
    if len(at) != len(rows) or len(at) == 0:
        msg = f"{len(at)} steps for {len(rows)} spectra; give one step for each, at least one."
        raise ValueError(msg)
    if not (np.isfinite(at).all() and (np.diff(at) > 0).all()):
        msg = f"steps={at.tolist()} must ascend without repetition; sort them with their spectra."
        raise ValueError(msg)
    if not any(len(row.values) and row.is_finite for row in rows):
        msg = "none of the spectra is finite; hs.check_problem names the cause."
        raise ValueError(msg)
    return at, rows


def _check_thresholds(tau: float | None, relative: float | None) -> None:
    """Is it clear what is called zero?

    Raises:
        ValueError: if both kinds are given, or one is out of range.
    """
    if tau is not None and relative is not None:
        msg = f"tau={tau} and relative={relative} are two meanings of zero; draw a figure for each."
        raise ValueError(msg)
    if tau is not None and not 0 < tau < np.inf:
        msg = f"tau={tau} must be positive; it is in the units of the eigenvalues, such as 1e-6."
        raise ValueError(msg)
    if relative is not None and not 0 < relative < 1:
        msg = (
            f"relative={relative} must lie between 0 and 1; it is a fraction of the largest "
            "absolute eigenvalue, such as 1e-6."
        )
        raise ValueError(msg)


def _count(
    steps: np.ndarray,
    rows: list[_Row],
    tau: float | None,
    relative: float | None,
    least_tau: float,
) -> _Counted:
    """Eigenvalues by step and bin; the middle bin is what is called zero."""
    units = [1.0 if relative is None else row.largest or 1.0 for row in rows]
    largest = max(row.largest / unit for row, unit in zip(rows, units, strict=True))
    tau = tau or relative or max(DEFAULT_TAU * (largest or 1.0), least_tau)
    edges = symlog.bin_edges(tau, largest, BINS_PER_DECADE)
    counts = np.stack([row.counts(edges, unit) for row, unit in zip(rows, units, strict=True)])
    if relative is None:
        label = f"eigenvalue (called zero\nwithin τ = {tau:.2g} at all steps)"
    else:
        label = f"eigenvalue / largest |λ| of its step\n(called zero within τ = {tau:.2g})"
    return _Counted(steps, counts, edges, tau, label)


def _heatmap(counted: _Counted, ax: Axes | None) -> Axes:
    """Counts as colours, over steps and eigenvalues."""
    ax = new_axes(ax, (5.6, 3.8))
    from matplotlib.colors import LogNorm  # an optional dependency

    shown = np.ma.masked_less(counted.counts.T, LEAST)
    norm = LogNorm(vmin=1, vmax=max(float(shown.max()), 10.0))
    borders = _borders(counted.steps)
    mesh = ax.pcolormesh(
        borders, counted.edges, shown, cmap="cividis", norm=norm, linewidth=0, rasterized=True
    )
    gaps = np.diff(counted.steps)
    if len(gaps) and gaps.max() > UNEVEN * gaps.min():
        ax.set_xscale("symlog", linthresh=gaps.min(), linscale=0.5)
    ax.set_xlim(borders[0], borders[-1])
    ax.set_xlabel("training step")
    symlog.scale_y(ax, counted.tau, counted.edges[0], counted.edges[-1])
    ax.set_ylabel(counted.label, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.figure.colorbar(mesh, ax=ax, label="eigenvalues per bin", pad=0.02, format="{x:g}")
    return ax


def _borders(steps: np.ndarray) -> np.ndarray:
    """Half way between steps; the first and the last are as wide as their neighbours."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    inner = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([[2 * steps[0] - inner[0]], inner, [2 * steps[-1] - inner[-1]]])


def _ridges(counted: _Counted, ax: Axes | None) -> Axes:
    """One histogram per step, each above the one before.

    Raises:
        ValueError: if there are more than can be told apart.
    """
    num = len(counted.steps)
    if num > MOST_RIDGES:
        every = -(-num // MOST_RIDGES)
        msg = (
            f"{num} ridges cannot be told apart; draw one of {every}, steps[::{every}] and "
            f"spectra[::{every}], or kind='heatmap'."
        )
        raise ValueError(msg)
    ax = new_axes(ax, (5.6, 1.2 + 0.4 * num))
    heights = np.log1p(counted.counts)
    heights *= HIGHEST / heights.max()
    _bars(ax, counted.edges, heights)
    middle = len(counted.edges) // 2 - 1  # the bin of what is called zero
    for i, count in enumerate(counted.counts[:, middle]):
        if count:
            at = (0, i + heights[i, middle] / 2)
            ax.annotate(f"{count:.0f}", at, ha="center", va="center", fontsize=7, color="white")
    ax.set_yticks(range(num), [f"{step:g}" for step in counted.steps])
    ax.set_ylim(-0.15, num)
    ax.set_ylabel("training step (heights: log(1 + count))", fontsize=9)
    symlog.scale_x(ax, counted.tau, counted.edges[0], counted.edges[-1])
    ax.set_xlabel(counted.label)
    quiet(ax)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


def _bars(ax: Axes, edges: np.ndarray, heights: np.ndarray) -> None:
    """The bars of all ridges; row i stands on i."""
    colours = np.select([edges[1:] < 0, edges[:-1] > 0], [NEGATIVE, POSITIVE], ZERO)
    for i, row in enumerate(heights):
        ax.bar(edges[:-1], row, np.diff(edges), i, align="edge", color=colours, linewidth=0)

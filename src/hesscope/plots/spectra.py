"""Pictures of eigenvalues: the whole spectrum on symlog axes, and a few pairs with intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hesscope import rounding
from hesscope.plots import symlog
from hesscope.plots.style import MARK, NEGATIVE, POSITIVE, ZERO, new_axes, quiet, wanted
from hesscope.results.spectrum import Eigenpairs, Spectrum
from hesscope.system.contexts import public

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS_PER_DECADE = 6


@public
def spectrum_histogram(
    spectrum: Spectrum,
    pairs: Eigenpairs | None = None,
    *,
    tau: float | None = None,
    ax: Axes | None = None,
    label: str | None = None,
    color: Any = None,
) -> Axes:
    """The number of eigenvalues, log scale, over the eigenvalue on a symlog axis.

    Eigenvalues within ± tau are one bar in the middle: they are called zero. Tau is 1e-6 of the
    largest absolute value, at least ten times the error of the spectrum. Marks along the upper
    edge show the eigenpairs, if given, above their exact counterparts.

    Args:
        spectrum: of `hs.spectrum`.
        pairs: of `hs.eigsh`, to be shown above.
        tau: half the width of the middle bin; give the same for spectra in one picture.
        ax: where to draw, over what is there; by default a new figure.
        label: of this spectrum, for the legend.
        color: draws an outline in this colour instead of bars by sign, so that several spectra can
            be told apart.

    Raises:
        TypeError: if it is no spectrum.
        RuntimeError: if matplotlib is not installed.
    """
    wanted(spectrum, Spectrum, "hs.spectrum(A)")
    ax = new_axes(ax, (7.2, 3.6))
    values = spectrum.eigenvalues.numpy()
    size = float(np.abs(values).max())
    tau = tau or max(1e-6 * size, 10 * spectrum.error, rounding.tiny())
    if size <= tau:  # nothing but zeros
        size = 10 * tau
    decades = math.log10(size / tau)
    edges = tau * 10 ** np.linspace(0, decades * 1.001, max(2, round(BINS_PER_DECADE * decades)))
    if color is None:
        _bars(ax, values[values < -tau], -edges[::-1], NEGATIVE)
        _bars(ax, values[np.abs(values) <= tau], np.array([-tau, tau]), ZERO)
        _bars(ax, values[values > tau], edges, POSITIVE)
    else:
        counts, edges = np.histogram(values, np.concatenate([-edges[::-1], edges]))
        ax.stairs(counts, edges, color=color, linewidth=1.4, label=label)
    low, high = min(2 * float(values.min()), -3 * tau), max(2 * float(values.max()), 3 * tau)
    symlog.scale_x(ax, tau, *symlog.covering(ax, low, high))
    ax.set_yscale("log")
    ax.set_ylim(0.6, max(2.2 * len(values), ax.get_ylim()[1]))
    ax.set_ylabel("eigenvalues per bin")
    ax.set_xlabel(f"eigenvalue (|λ| ≤ {tau:.0e} called zero)")
    if color is None and label is not None:
        ax.plot([], [], "s", color=POSITIVE, label=label)
    if pairs is not None:
        found = f"{len(pairs)} found without the matrix, {pairs.num_matvecs} matvecs"
        ax.plot(
            pairs.eigenvalues.numpy(),
            np.full(len(pairs), 0.97),
            "|",
            color=MARK,
            ms=10,
            mew=1.4,
            label=found,
            transform=ax.get_xaxis_transform(),
            clip_on=False,
        )
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, loc="upper right", bbox_to_anchor=(1.0, 0.93))
    quiet(ax)
    return ax


@public
def eigenvalues(
    pairs: Eigenpairs, *, ax: Axes | None = None, label: str | None = None, color: Any = None
) -> Axes:
    """Eigenvalues in their order with the intervals that certainly hold one, λ ± residual.

    Args:
        pairs: of `hs.eigsh`.
        ax: where to draw, over what is there; by default a new figure.
        label: of these pairs, for the legend.
        color: one for all of them; by default blue above zero and red below.

    Raises:
        TypeError: if these are no eigenpairs.
        RuntimeError: if matplotlib is not installed.
    """
    wanted(pairs, Eigenpairs, "hs.eigsh(A, k)")
    ax = new_axes(ax, (7.2, 3.0))
    values, errors = pairs.eigenvalues.numpy(), pairs.residuals.numpy()
    ranks = np.arange(1, len(values) + 1)
    for sign, usual in ((values >= 0, POSITIVE), (values < 0, NEGATIVE)):
        if not sign.any():
            continue
        colour = usual if color is None else color
        ax.vlines(ranks[sign], 0, values[sign], color=colour, linewidth=1.2, alpha=0.5)
        ax.errorbar(
            ranks[sign], values[sign], errors[sign], fmt="o", color=colour, capsize=4, markersize=5
        )
    if label is not None:
        ax.plot([], [], "o", color=color or POSITIVE, markersize=5, label=label)
        ax.legend(frameon=False)
    ax.axhline(0, color=ZERO, linewidth=0.8)
    ax.set_xticks(ranks)
    ax.set_xlabel("rank")
    ax.set_ylabel("eigenvalue ± residual")
    quiet(ax)
    return ax


def _bars(ax: Axes, values: np.ndarray, edges: np.ndarray, colour: str) -> None:
    counts, edges = np.histogram(values, edges)
    ax.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colour, linewidth=0)

"""Pictures of eigenvalues: the whole spectrum on symlog axes, and a few pairs with intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hesscope import rounding
from hesscope.plots.style import MARK, NEGATIVE, POSITIVE, ZERO, new_axes, quiet
from hesscope.results.spectrum import Eigenpairs, Spectrum
from hesscope.system.contexts import public

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS_PER_DECADE = 6
LABELLED = 4  # decades that get a tick label on each side, at most


@public
def spectrum_histogram(
    spectrum: Spectrum,
    pairs: Eigenpairs | None = None,
    *,
    tau: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The number of eigenvalues, log scale, over the eigenvalue on a symlog axis.

    Eigenvalues within ± tau are one bar in the middle: they are called zero. Tau is 1e-6 of the
    largest absolute value, at least ten times the error of the spectrum. Marks along the upper
    edge show the eigenpairs, if given, above their exact counterparts.

    Raises:
        RuntimeError: if matplotlib is not installed.
    """
    ax = new_axes(ax, (7.2, 3.6))
    values = spectrum.eigenvalues.numpy()
    size = float(np.abs(values).max())
    tau = tau or max(1e-6 * size, 10 * spectrum.error, rounding.tiny())
    if size <= tau:  # nothing but zeros
        size = 10 * tau
    decades = math.log10(size / tau)
    edges = tau * 10 ** np.linspace(0, decades * 1.001, max(2, round(BINS_PER_DECADE * decades)))
    _bars(ax, values[values < -tau], -edges[::-1], NEGATIVE)
    _bars(ax, values[np.abs(values) <= tau], np.array([-tau, tau]), ZERO)
    _bars(ax, values[values > tau], edges, POSITIVE)
    _symlog_axis(ax, tau, max(float(values.max()), tau), max(-float(values.min()), tau))
    ax.set_yscale("log")
    ax.set_ylim(0.6, 2.2 * len(values))
    ax.set_ylabel("eigenvalues per bin")
    ax.set_xlabel(f"eigenvalue (one bin within ± {tau:.0e}: called zero)")
    if pairs is not None:
        label = f"{len(pairs)} found without the matrix, {pairs.num_matvecs} matvecs"
        ax.plot(
            pairs.eigenvalues.numpy(),
            np.full(len(pairs), 0.97),
            "|",
            color=MARK,
            ms=10,
            mew=1.4,
            label=label,
            transform=ax.get_xaxis_transform(),
            clip_on=False,
        )
        ax.legend(frameon=False, loc="upper right", bbox_to_anchor=(1.0, 0.93))
    quiet(ax)
    return ax


@public
def eigenvalues(pairs: Eigenpairs, *, ax: Axes | None = None) -> Axes:
    """Eigenvalues in their order with the intervals that certainly hold one, λ ± residual.

    Raises:
        RuntimeError: if matplotlib is not installed.
    """
    ax = new_axes(ax, (7.2, 3.0))
    values, errors = pairs.eigenvalues.numpy(), pairs.residuals.numpy()
    ranks = np.arange(1, len(values) + 1)
    for sign, colour in ((values >= 0, POSITIVE), (values < 0, NEGATIVE)):
        ax.vlines(ranks[sign], 0, values[sign], color=colour, linewidth=1.2, alpha=0.5)
        ax.errorbar(
            ranks[sign], values[sign], errors[sign], fmt="o", color=colour, capsize=4, markersize=5
        )
    ax.axhline(0, color=ZERO, linewidth=0.8)
    ax.set_xticks(ranks)
    ax.set_xlabel("rank")
    ax.set_ylabel("eigenvalue ± residual")
    quiet(ax)
    return ax


def _bars(ax: Axes, values: np.ndarray, edges: np.ndarray, colour: str) -> None:
    counts, edges = np.histogram(values, edges)
    ax.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colour, linewidth=0)


def _symlog_axis(ax: Axes, tau: float, highest: float, lowest: float) -> None:
    """A symlog axis from -lowest to highest whose few labels do not run into each other."""
    ax.set_xscale("symlog", linthresh=tau, linscale=0.6)
    first, last = math.ceil(math.log10(tau) + 1), math.floor(math.log10(max(highest, lowest)))
    step = max(1, -(-(last - first + 1) // LABELLED))
    decades = [10.0**d for d in range(last, first - 1, -step)][::-1]
    ticks = [-d for d in reversed(decades) if d <= lowest] + [0.0]
    ticks += [d for d in decades if d <= highest]
    ax.set_xticks(ticks, [_label(tick) for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlim(
        *(sign * (2 * end if end > tau else 3 * tau) for sign, end in ((-1, lowest), (1, highest)))
    )


def _label(value: float) -> str:
    if value == 0:
        return "0"
    power = round(math.log10(abs(value)))
    return f"${'-' if value < 0 else ''}10^{{{power}}}$"

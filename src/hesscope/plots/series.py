"""Eigenvalues over checkpoints: a line for each, with the interval that certainly holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hesscope.plots.style import MARK, NEGATIVE, POSITIVE, ZERO, new_axes, quiet, wanted
from hesscope.results.checkpoint_spectrum import spectra_of
from hesscope.results.history import History
from hesscope.system.contexts import public

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 30  # ratio from which the axis is logarithmic
FAINTEST = 0.35  # of the last line


@public
def eigenvalues_over_checkpoints(history: History, *, ax: Axes | None = None) -> Axes:
    """The eigenvalues of `hs.spectra` over the steps, and above them how far their space turns.

    The numbers at the upper edge are the overlaps with the checkpoint before.

    Raises:
        TypeError: if it is no history.
        ValueError: if the history is none of `hs.spectra`.
        RuntimeError: if matplotlib is not installed.
    """
    wanted(history, History, "hs.spectra(problem, checkpoints)")
    spectra = spectra_of(history)
    if not spectra:
        msg = "this history holds no spectra of checkpoints; give the result of hs.spectra."
        raise ValueError(msg)
    ax = new_axes(ax, (7.2, 3.6))
    steps = np.array(list(spectra))
    values = np.stack([one.eigenvalues.numpy() for one in spectra.values()])
    errors = np.stack([one.residuals.numpy() for one in spectra.values()])
    k = values.shape[1]
    for i in range(k):
        colour = POSITIVE if values[-1, i] >= 0 else NEGATIVE
        alpha = 1 - (1 - FAINTEST) * i / max(k - 1, 1)
        line, error = values[:, i], errors[:, i]
        ax.plot(steps, line, ".-", color=colour, alpha=alpha, linewidth=1.2, markersize=4)
        ax.fill_between(steps, line - error, line + error, color=colour, alpha=0.2, linewidth=0)
    if values.min() > 0 and values.max() > WIDE * values.min():
        ax.set_yscale("log")
    elif values.min() < 0:
        ax.axhline(0, color=ZERO, linewidth=0.8)
    _tell_overlaps(ax, history)
    ax.set_xlabel(str(history.facts.get("axis", "steps")))
    ax.set_ylabel(f"eigenvalues 1 to {k}")
    quiet(ax)
    return ax


def _tell_overlaps(ax: Axes, history: History) -> None:
    """Between each two checkpoints, as many as there is room for."""
    known = [(s, one.overlap) for s, one in spectra_of(history).items() if one.overlap is not None]
    steps = list(spectra_of(history))
    every = -(-len(known) // 12) or 1
    for step, turned in known[::every]:
        if turned is None or turned.error >= 1:
            continue
        before = steps[steps.index(step) - 1]
        ax.annotate(
            f"{turned.mean_square:.2f}", ((before + step) / 2, 1.01),
            xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8, color=MARK,
        )  # fmt: skip

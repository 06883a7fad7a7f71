"""Figure 7: the spectrum during training, with an absolute and a relative meaning of zero."""

from __future__ import annotations

from typing import Any

import torch
from common.data import blobs
from common.keeping import Arrays
from common.style import NEGATIVE, POSITIVE
from matplotlib.figure import Figure

import hesscope as hs
from sagun import claims, networks, repeats, simple
from sagun.context import Context, finished
from sagun.settings import TAU

TITLE = "The spectrum during training"


def measure(c: Context) -> dict[str, Any]:
    """Exact spectra of networks on digits and on blobs along training."""
    return {"digits": repeats.descents(c), "blobs": _blobs(c), "settings": c.settings}


def _blobs(c: Context) -> dict[str, Any]:
    s, record = c.settings.blobs, c.settings.digits.snapshots
    k = s.widths[1]
    layers, (X, y) = (2, k, k, 2), blobs(s.points, s.std)
    end = simple.trained(c, f"blobs/{networks.num_parameters(layers)}", layers, (X, y))

    def job() -> Arrays:
        start = networks.starts(layers, s.seeds, s.sigma)
        t = hs.ensemble.train(start, X, y, lr=s.lr, steps=max(record), record=record)
        values = [hs.ensemble.spectra(t.snapshots[step], X, y) for step in record]
        return {"eigenvalues": torch.stack(values, 1)}

    path = c.run.arrays("blobs/path", networks.short((layers, X, y, s, record)), job)
    values = torch.cat([path["eigenvalues"], end["eigenvalues"][:, None]], 1)
    return {"steps": [*record, int(end["steps"].median())], "values": values[~end["dead"]]}


def draw(m: dict[str, Any]) -> Figure:
    """Ridges of the network on digits with both thresholds; below, many networks on blobs."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[1.7, 1])
    steps, spectra = m["digits"][0].steps, m["digits"][0].spectra
    for i, kind in enumerate(("tau", "relative")):
        ax = figure.add_subplot(grid[0, i])
        hs.plots.spectra_over_training(steps, spectra, kind="ridge", ax=ax, **{kind: TAU})
        ax.set_title(
            f"digits, {'absolute' if kind == 'tau' else 'relative'} threshold", fontsize=10
        )
        ax = figure.add_subplot(grid[1, i])
        _counts(ax, m["blobs"], relative=kind == "relative")
    return figure


def _counts(ax: Any, blob: dict[str, Any], *, relative: bool) -> None:
    """The share near zero over the steps, over all seeds."""
    shares = networks.near_zero(blob["values"], TAU, relative=relative) / blob["values"].shape[2]
    steps = range(len(blob["steps"]))
    ax.plot(steps, shares.T, color=POSITIVE, lw=0.5, alpha=0.25)
    ax.plot(steps, shares.quantile(0.5, dim=0), "o-", color=NEGATIVE, label="median")
    ax.set_xticks(steps, [f"{step:g}" for step in blob["steps"]], fontsize=8)
    ax.set_ylim(0, 1)
    ax.set_xlabel("training step (the last: end of training, median)")
    ax.set_ylabel("share of eigenvalues near zero")
    what = f"within {TAU:g} of the largest |λ|" if relative else f"within {TAU:g}"
    n = blob["values"].shape[2]
    ax.set_title(f"blobs, {len(shares)} networks of {n} parameters, {what}", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)


def caption(m: dict[str, Any]) -> str:
    """The two stories in numbers."""
    spectra = m["digits"][0].spectra
    tops = torch.stack([s.eigenvalues[-1] for s in spectra])
    return (
        f"Network of {len(spectra[0]):,} parameters on digits: λmax goes from {float(tops[0]):.3g} "
        f"over {float(tops.max()):.3g} to {float(tops[-1]):.3g} "
        f"({finished(m['digits'][0].end, m['settings'].digits.tolerance)}). An absolute threshold "
        "calls everything zero once the spectrum has shrunk below it; a relative one compares "
        "with the largest eigenvalue of the same step, and so depends on that. Numbers in the "
        "ridges: eigenvalues called zero. The paper shows steps 20 to 100."
    )


def check(m: dict[str, Any]) -> list[claims.Claim]:
    """Does training concentrate eigenvalues at zero? In both senses, on both kinds of data."""
    rows = []
    values = torch.stack([d.eigenvalues[[0, -2, -1]] for d in m["digits"]])
    digits_name = f"digits, {len(values)} seeds"
    blobs_name = f"blobs, {len(m['blobs']['values'])} seeds"
    early = m["settings"].digits.snapshots[-1]
    for name, v in ((digits_name, values), (blobs_name, m["blobs"]["values"])):
        for relative in (False, True):
            zeros = networks.near_zero(v, TAU, relative=relative)
            what = f"{name}, within {TAU:g}{' λmax' if relative else ''}"
            for when, at in ((f"in {early} steps", -2), ("to the end", -1)):
                rows.append(
                    claims.training_concentrates(
                        zeros[:, 0], zeros[:, at], v.shape[2], f"{when}; {what}"
                    )
                )
    return rows

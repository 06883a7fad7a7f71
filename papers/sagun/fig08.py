"""Figure 8: the largest eigenvalues of thousands of networks that differ by their start alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common.data import blobs
from common.keeping import Arrays
from common.style import NEGATIVE, POSITIVE
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

import hesscope as hs
from sagun import claims, networks
from sagun.context import Context, finished

TITLE = "Top eigenvalues over many starts"


def measure(c: Context) -> dict[str, Any]:
    """Trains in parts, so that a killed run loses one of them."""
    s, k = c.settings.starts, c.settings.starts.width
    layers, b = (2, k, k, 2), c.settings.blobs
    data = blobs(b.points, b.std)
    everyone = networks.starts(layers, s.num, b.sigma)
    parts = []
    for first in range(0, s.num, s.part):
        e = hs.ensemble.Ensemble(layers, "relu", everyone.theta[first : first + s.part])
        key = networks.short((layers, e.theta, *data, b.lr, b.steps, b.tolerance))
        parts.append(
            c.run.arrays(f"starts/{first}", key, lambda e=e: _train(e, data, c.settings.blobs))
        )
    return {"found": networks.together(parts), "settings": c.settings}


def _train(e: hs.ensemble.Ensemble, data: Any, b: Any) -> Arrays:
    """Gradient descent, and the two largest and the smallest of all eigenvalues."""
    t = hs.ensemble.train(e, *data, lr=b.lr, steps=b.steps, tolerance=b.tolerance)
    values = hs.ensemble.spectra(t.ensemble, *data)
    found = {**networks.outcome(t), "norms": t.ensemble.theta.norm(dim=1)}
    del found["theta"]
    return {**found, "eigenvalues": values[:, [0, -2, -1]]}


def draw(m: dict[str, Any]) -> Figure:
    """Histograms of λ1 and λ2, and one against the other."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
    values = _alive(m)
    values = values[values[:, 1] > 0]  # on a log axis
    edges = np.geomspace(float(values[:, 1].min()) * 0.98, float(values[:, 2].max()) * 1.02, 90)
    for i, name, colour in ((2, "λ1", POSITIVE), (1, "λ2", NEGATIVE)):
        left.hist(values[:, i].numpy(), edges, color=colour, alpha=0.75, label=name)
    left.set_xscale("log")
    left.set_xlabel("eigenvalue after training")
    left.set_ylabel(f"networks, of {len(values):,}")
    left.legend(frameon=False)
    right.plot(values[:, 2], values[:, 1], ".", color=POSITIVE, ms=2, alpha=0.3)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("λ1")
    right.set_ylabel("λ2")
    for axis in (left.xaxis, right.xaxis, right.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _alive(m: dict[str, Any]) -> torch.Tensor:
    found = m["found"]
    return found["eigenvalues"][~found["dead"] & found["losses"].isfinite()]


def caption(m: dict[str, Any]) -> str:
    """Dead starts, convergence, quantiles."""
    found, b = m["found"], m["settings"].blobs
    top = _alive(m)[:, 2]
    quantiles = [float(top.quantile(q)) for q in (0.05, 0.5, 0.95)]
    n = networks.num_parameters((2, m["settings"].starts.width, m["settings"].starts.width, 2))
    return (
        f"{len(found['losses']):,} networks of {n} parameters, same data, same algorithm "
        f"(lr = {b.lr:g}), starts on one sphere; all eigenvalues exact. "
        f"{finished(found, b.tolerance).capitalize()}; {int(found['dead'].sum())} dead, left out. "
        f"λ1: 5 % {quantiles[0]:.3g}, median {quantiles[1]:.3g}, 95 % {quantiles[2]:.3g}. "
        f"The smallest eigenvalue is negative in "
        f"{float((found['eigenvalues'][:, 0] < -1e-12).double().mean()):.1%}."
    )


def check(m: dict[str, Any]) -> list[claims.Claim]:
    """How much the start matters."""
    return [claims.starts_matter_little(_alive(m)[:, 2])]

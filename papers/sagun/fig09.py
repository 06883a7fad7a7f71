"""Figure 9: top eigenvalues as the blobs run into each other, for several step sizes."""

from __future__ import annotations

from typing import Any

import torch
from common.data import blobs
from common.keeping import Arrays
from common.style import MARK, NEGATIVE, POSITIVE
from matplotlib.figure import Figure
from torch import Tensor

import hesscope as hs
from sagun import claims, networks
from sagun.context import Context

TITLE = "Top eigenvalues as the classes overlap"
COLOURS = [POSITIVE, MARK, NEGATIVE]


def measure(c: Context) -> dict[str, Any]:
    """Every standard deviation and step size, for the same total time lr x steps."""
    s, b, k = c.settings.overlap, c.settings.blobs, c.settings.overlap.width
    layers = (2, k, k, 2)
    found = {}
    for rate in s.rates:
        for std in s.stds:
            X, y = blobs(b.points, std)
            steps = round(s.time / rate)

            def job(X: Tensor = X, y: Tensor = y, rate: float = rate, steps: int = steps) -> Arrays:
                start = networks.starts(layers, s.seeds, b.sigma)
                t = hs.ensemble.train(start, X, y, lr=rate, steps=steps, tolerance=b.tolerance)
                return networks.outcome(t, hs.ensemble.spectra(t.ensemble, X, y))

            key = networks.short((layers, X, y, s.seeds, b.sigma, rate, steps, b.tolerance))
            found[rate, std] = c.run.arrays(f"overlap/lr-{rate:g}/std-{std:g}", key, job)
    return {"found": found, "settings": c.settings}


def _series(m: dict[str, Any], rate: float, what: Any) -> Tensor:
    """(stds, seeds)."""
    return torch.stack([what(m["found"][rate, std]) for std in m["settings"].overlap.stds])


def first(found: Arrays) -> Tensor:
    """λ1."""
    return found["eigenvalues"][:, -1]


def second(found: Arrays) -> Tensor:
    """λ2."""
    return found["eigenvalues"][:, -2]


def norm(found: Arrays) -> Tensor:
    """|θ|."""
    return found["theta"].norm(dim=1)


def loss(found: Arrays) -> Tensor:
    """The loss at the end."""
    return found["losses"]


def draw(m: dict[str, Any]) -> Figure:
    """λ1 and λ2 with 2/lr, the norm of the weights and the loss, medians with 10 to 90 %."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).flat
    s = m["settings"].overlap
    names = ["λ1 (dashed: 2/lr)", "λ2 (dashed: 2/lr)", "norm of the weights", "loss"]
    for ax, name, what in zip(axes, names, (first, second, norm, loss), strict=True):
        for rate, colour in zip(s.rates, COLOURS, strict=False):
            series = _series(m, rate, what)
            low, middle, high = (series.quantile(q, dim=1) for q in (0.1, 0.5, 0.9))
            ax.plot(s.stds, middle, "o-", color=colour, ms=4, label=f"lr = {rate:g}")
            ax.fill_between(s.stds, low, high, color=colour, alpha=0.18, linewidth=0)
            if "2/lr" in name:
                ax.axhline(2 / rate, color=colour, lw=0.9, ls="--")
        if what is not norm:
            ax.set_yscale("log")
        ax.set_ylabel(name)
        ax.spines[["top", "right"]].set_visible(False)
    axes[2].set_xlabel("standard deviation of the blobs")
    axes[3].set_xlabel("standard deviation of the blobs")
    axes[0].legend(frameon=False, loc="lower right")
    return figure


def caption(m: dict[str, Any]) -> str:
    """Conditions; what was reached."""
    s, b = m["settings"].overlap, m["settings"].blobs
    reached = {
        rate: _series(m, rate, lambda f: (f["gradient_norms"] < b.tolerance).double()).mean(1)
        for rate in s.rates
    }
    text = "; ".join(
        f"lr = {rate:g}: {', '.join(f'{float(share):.0%}' for share in shares)}"
        for rate, shares in reached.items()
    )
    dead = sum(int(f["dead"].sum()) for f in m["found"].values())
    return (
        f"{s.seeds} seeds for each point, medians and 10 to 90 %. Every run has the same time "
        f"lr x steps = {s.time:g} at most. Share of networks that reached gradient norm "
        f"{b.tolerance:g}, by standard deviation: {text}. {dead} dead."
    )


def check(m: dict[str, Any]) -> list[claims.Claim]:
    """Growth, the share of the optimiser in it, and the weights."""
    s = m["settings"].overlap
    rows = []
    for rate in (s.rates[0], s.rates[-1]):
        for name, what in (("λ1", first), ("λ2", second)):
            rows.append(claims.overlap_grows(s.stds, _series(m, rate, what), name, rate))
    last = torch.stack([first(m["found"][rate, s.stds[-1]]) for rate in s.rates])
    rows.append(claims.not_the_optimiser(s.rates, last))
    rows += [
        claims.norms_similar(s.stds, _series(m, r, norm), r) for r in (s.rates[0], s.rates[-1])
    ]
    return rows

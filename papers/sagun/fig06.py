"""Figure 6: heat maps of whole Hessians, 18, 74 and 162 parameters, after training."""

from __future__ import annotations

from typing import Any

import torch
from common.data import blobs
from matplotlib.figure import Figure

import hesscope as hs
from sagun import claims, networks, simple
from sagun.context import Context

TITLE = "Whole Hessians after training"
NAMES = ["W1", "b1", "W2", "b2", "W3", "b3"]


def measure(c: Context) -> dict[str, Any]:
    """The Hessian of the first network that is alive, for the first three sizes."""
    s = c.settings.blobs
    X, y = blobs(s.points, s.std)
    matrices = []
    for k in s.widths[:3]:
        layers = (2, k, k, 2)
        found = simple.trained(c, f"blobs/{networks.num_parameters(layers)}", layers, (X, y))
        i = simple.first(found)
        e = hs.ensemble.Ensemble(layers, "relu", found["theta"][[i]])
        matrices.append((k, hs.ensemble.hessians(e, X, y)[0]))
    return {"matrices": matrices}


def draw(m: dict[str, Any]) -> Figure:
    """Three heat maps with their layers."""
    num = len(m["matrices"])
    figure = Figure(figsize=(5 * num, 4.4), layout="constrained")
    for i, (k, H) in enumerate(m["matrices"]):
        edges = torch.tensor([2 * k, k, k * k, k, 2 * k, 2]).cumsum(0)
        ax = figure.add_subplot(1, num, i + 1)
        hs.plots.heatmap(H, names=NAMES, boundaries=edges, ax=ax)
        ax.set_title(f"{len(H)} parameters", fontsize=10)
    return figure


def caption(m: dict[str, Any]) -> str:
    """What is exactly zero."""
    shares = [f"{len(H)}: {float((H == 0).double().mean()):.0%}" for _, H in m["matrices"]]
    return "Rows from top to bottom, as in a matrix; entries that are exactly zero: " + (
        ", ".join(shares) + "."
    )


def check(m: dict[str, Any]) -> list[claims.Claim]:  # noqa: ARG001  one signature for all figures
    """No claim rests on it."""
    return []

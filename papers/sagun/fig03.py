"""Figure 3: the two Gaussian blobs."""

from __future__ import annotations

from typing import Any

from common.data import blobs
from common.style import NEGATIVE, POSITIVE
from matplotlib.figure import Figure

from sagun import claims
from sagun.context import Context

TITLE = "The data of the simple case"


def measure(c: Context) -> dict[str, Any]:
    """Draws the points."""
    s = c.settings.blobs
    X, y = blobs(s.points, s.std)
    return {"X": X, "y": y, "settings": s}


def draw(m: dict[str, Any]) -> Figure:
    """A scatter plot."""
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    ax = figure.add_subplot()
    for label, colour, centre in ((0, POSITIVE, "(1, 1)"), (1, NEGATIVE, "(-1, -1)")):
        points = m["X"][m["y"] == label]
        ax.scatter(*points.T, s=16, color=colour, alpha=0.8, linewidth=0, label=f"around {centre}")
    ax.set_aspect("equal")
    ax.set_xlabel("$x_1$")
    ax.set_ylabel("$x_2$")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    return figure


def caption(m: dict[str, Any]) -> str:
    """How many, how wide."""
    s = m["settings"]
    return f"{s.points} points in two Gaussian blobs of standard deviation {s.std:g}."


def check(m: dict[str, Any]) -> list[claims.Claim]:  # noqa: ARG001  one signature for all figures
    """No claim rests on it."""
    return []

"""Cost and error of every way, in one picture: `docs/_static/peers.svg`."""

from __future__ import annotations

import hashlib
import io
import json
from math import ceil, floor, log10
from typing import Any

from benchmarks.peers.measure import Row, is_finite
from benchmarks.peers.work import WORKS
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

import hesscope as hs

PANELS = {
    "product-mlp": "Hessian-vector product, MLP",
    "product-resnet": "Hessian-vector product, ResNet-20",
    "largest-mlp": "10 largest eigenvalues, MLP",
    "largest-resnet": "10 largest eigenvalues, ResNet-20",
    "density": "spectral density",
    "trace": "trace",
}
LOOKS = {
    "hesscope": ("#c8553d", "*", 60),
    "PyHessian": ("#2f6db3", "o", 22),
    "curvlinops": ("#5a8f4e", "s", 20),
    "hessian-eigenthings": ("#8a6bb1", "^", 24),
    "Landscaper": ("#b8860b", "D", 18),
}
SMALLEST = 1e-9  # errors below are drawn here: a logarithm has no zero


def digest(report: dict[str, Any]) -> str:
    """What the picture was drawn from, in a few letters that stand in it."""
    text = json.dumps(report["rows"], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def svg(report: dict[str, Any]) -> str:
    """The picture, the same text for the same report."""
    settings = {"svg.hashsalt": "peers", "svg.fonttype": "none", "font.family": "sans-serif"}
    with hs.plots.paper_style(width="page"), rc_context(settings):
        figure = Figure(figsize=(6.8, 4.4), layout="constrained")
        for ax, (name, title) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
            panel(ax, title, [row for row in report["rows"] if row["work"] == name])
            if WORKS[name].asked is not None:
                ax.axhline(WORKS[name].asked, color="#8a8f98", lw=0.6, ls="--", zorder=0)
        handles = [
            Axes.scatter(figure.axes[0], [], [], c=color, marker=marker, s=size, label=tool)
            for tool, (color, marker, size) in LOOKS.items()
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(LOOKS), frameon=False)
        figure.supxlabel("time, in gradients of the same network", fontsize=8)
        figure.supylabel("error", fontsize=8)
        file = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Description": f"rows {digest(report)}"}
        figure.savefig(file, format="svg", metadata=metadata)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def panel(ax: Axes, title: str, rows: list[Row]) -> None:
    """One piece of work: error over cost, hollow where something was set; who fails, in words."""
    for row in filter(is_finite, rows):
        color, marker, size = LOOKS[row["tool"]]
        filled = color if row["at"] == "defaults" else "none"
        place = row["gradients"], max(row["error"], SMALLEST)
        look = {"s": size, "marker": marker, "edgecolors": color, "lw": 0.8}
        ax.scatter(*place, facecolors=filled, zorder=3 if row["tool"] == "hesscope" else 2, **look)
    ax.set_title(title)
    ax.set(xscale="log", yscale="log")
    errors = [max(row["error"], SMALLEST) for row in filter(is_finite, rows)]
    if errors:  # whole decades, as errors that hardly differ are not to look as if they did
        ax.set_ylim(10 ** (floor(log10(min(errors))) - 0.3), 10 ** (ceil(log10(max(errors))) + 0.7))
    ax.yaxis.set_major_locator(LogLocator(subs=(1,), numticks=8))
    if rows and WORKS[rows[0]["work"]].is_product:
        ax.set_xscale("linear")
        ax.set_xlim(0, 1.03 * ax.get_xlim()[1])  # no mark is cut
    else:
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.4g}"))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    failing = list(dict.fromkeys(row["tool"] for row in rows if "failed" in row))
    if failing:
        text = f"fails: {', '.join(failing)}"
        ax.text(0.98, 0.97, text, transform=ax.transAxes, ha="right", va="top", fontsize=6)

"""Figure 5: the spectrum with the mean-square loss."""

from __future__ import annotations

from typing import Any

from common.style import NEGATIVE, POSITIVE
from matplotlib.figure import Figure

import hesscope as hs
from sagun import claims, fig04, networks, simple
from sagun.context import Context, finished
from sagun.settings import TAU

TITLE = "The spectrum with the mean-square loss"


def measure(c: Context) -> dict[str, Any]:
    """The networks of figure 4 that were trained with it."""
    m = fig04.measure(c)
    return {"mse": m["mse"], "log": m["found"][1], "n": m["sizes"][1], "settings": m["settings"]}


def draw(m: dict[str, Any]) -> Figure:
    """One network, and the ten largest eigenvalues of all seeds."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    values = m["mse"]["eigenvalues"][simple.first(m["mse"])]
    tau = TAU * float(values.abs().max())
    hs.plots.spectrum_histogram(networks.as_spectrum(values), tau=tau, ax=left)
    left.set_title(f"{m['n']} parameters, mean-square loss, one seed", fontsize=10)
    tops = simple.alive(m["mse"])["eigenvalues"][:, -10:].flip(1)
    right.plot(range(1, 11), tops.T, "o-", color=POSITIVE, ms=3, lw=0.8, alpha=0.5)
    right.axhline(2 / m["settings"].mse_lr, color=NEGATIVE, lw=1, ls="--", label="2/lr")
    right.set_yscale("log")  # leaves out what is not positive
    right.set_xticks(range(1, 11))
    right.set_xlabel("rank")
    right.set_ylabel("eigenvalue")
    right.set_title(f"the ten largest eigenvalues of {len(tops)} seeds", fontsize=10)
    right.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False)
    return figure


def caption(m: dict[str, Any]) -> str:
    """Training."""
    s = m["settings"]
    return (
        f"Gradient descent with lr = {s.mse_lr:g}: {finished(m['mse'], s.tolerance)}, median loss "
        f"{float(m['mse']['losses'].median()):.2g}, largest gradient norm "
        f"{float(m['mse']['gradient_norms'].max()):.2g}. {simple.living(m['mse']).capitalize()}."
    )


def check(m: dict[str, Any]) -> list[claims.Claim]:  # noqa: ARG001  one signature for all figures
    """Counted with figure 4."""
    return []

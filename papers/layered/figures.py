"""The figures: shapes of layers, shares outside of blocks, distances and gaps, penalties."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from layered import spectra

MIDDLE = (spectra.LARGEST - spectra.SMALLEST) * spectra.EACH
POWERS = (0, -2, -4)


def layers(found: Any) -> Figure:
    """Shapes of the layers of seed 0, trained; below, λmax by layer at the start and trained."""
    figure, axes = plt.subplots(2, len(found), figsize=(10, 5.8))
    for (name, states), above, below in zip(found.items(), axes[0], axes[1], strict=True):
        one = states["trained"][0]
        names = list(spectra.of(one, "layer"))
        at = torch.arange(2 * MIDDLE + 1) - MIDDLE
        above.fill_between(at, spectra.shape(one["whole"]), step="mid", color=ZERO, alpha=0.35,
                           label="whole")  # fmt: skip
        colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(names)))
        for layer, colour in zip(names, colours, strict=True):
            above.step(at, spectra.shape(spectra.of(one, "layer")[layer]), where="mid", lw=1.1,
                       color=colour, label=_short(layer, names))  # fmt: skip
        _signed_decades(above)
        above.set_title(name, fontsize=10, pad=32)
        above.legend(frameon=False, fontsize=7, loc="lower center", ncols=4, handlelength=1.2,
                     bbox_to_anchor=(0.5, 1.0))  # fmt: skip
        _tops(below, states, names)
    axes[0, 0].set_ylabel("share of eigenvalues")
    axes[1, 0].set_ylabel("largest eigenvalue of a layer")
    figure.tight_layout()
    return figure


def _tops(ax: Any, states: Any, names: list[str]) -> None:
    for state, colour, aside in (("start", ZERO, -0.1), ("trained", POSITIVE, 0.1)):
        tops = torch.stack([
            torch.stack([spectra.of(one, "layer")[n][-1] for n in names]) for one in states[state]
        ])  # fmt: skip
        places = torch.arange(len(names)) + aside
        ax.plot(places, tops.median(0).values, "o", ms=4.5, color=colour, label=state)
        ax.vlines(places, tops.min(0).values, tops.max(0).values, color=colour, lw=1.2)
    ax.set_xticks(range(len(names)), [_short(n, names) for n in names])
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(numticks=6, subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("layer, from the input on")
    ax.legend(frameon=False, fontsize=8)


def _short(layer: str, names: list[str]) -> str:
    if layer.isdigit():
        return str(names.index(layer) + 1)
    return layer.replace("embedding", "emb").replace("attention ", "att").replace("mlp ", "mlp")


def _signed_decades(ax: Any) -> None:
    """Ticks at ±10^k in a histogram over signed half decades."""
    ups = [(power - spectra.SMALLEST) * spectra.EACH + 0.5 for power in POWERS]
    labels = [f"$10^{{{power}}}$" for power in POWERS]
    ticks = [-x for x in ups] + [0.0, *ups]
    ax.set_xticks(ticks, [f"-{label}" for label in labels] + ["0", *labels], fontsize=8)
    ax.set_xlim(-ups[0] - 1, ups[0] + 1)
    ax.set_xlabel("λ / max |λ|")


def coupling(shares: Any, classes: tuple[int, ...], falling: dict[str, Tensor]) -> Figure:
    """The share outside in three networks, and over the number of classes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3))
    for state, colour, aside in (("start", ZERO, -0.08), ("trained", POSITIVE, 0.08)):
        for i, states in enumerate(shares.values()):
            at = torch.full_like(states[state], i + aside)
            left.plot(at, states[state], "o", ms=4, color=colour, label=state if i == 0 else None)
    left.set_xticks(range(len(shares)), list(shares))
    left.set_xlim(-0.5, len(shares) - 0.5)
    left.set_ylim(0, 1)
    left.set_ylabel("share of ‖H‖² outside of layers")
    left.legend(frameon=False, fontsize=8)
    for (name, values), colour in zip(falling.items(), (POSITIVE, NEGATIVE, MARK), strict=True):
        right.fill_between(
            classes, values.min(1).values, values.max(1).values, color=colour, alpha=0.2
        )
        label = "between two units" if name == "pairs" else f"outside of {name}"
        middle = values.median(1).values
        right.plot(classes, middle, "o-", ms=4, lw=1.2, color=colour, label=label)
    right.set_xscale("log", base=2)
    right.set_ylim(0, 1)
    right.set_xticks(classes, [str(c) for c in classes])
    right.set_xlabel("classes")
    right.set_ylabel("share of ‖H‖², ratio of blocks")
    right.legend(frameon=False, fontsize=8, loc="lower left")
    figure.tight_layout()
    return figure


def adam(found: dict[str, dict[str, Tensor]]) -> Figure:
    """A point for each seed: how different blocks are, and what Adam gains."""
    figure, ax = plt.subplots(figsize=(6.5, 3.6))
    colours = {"MLP": POSITIVE, "CNN": MARK, "GPT": NEGATIVE}
    for name, one in found.items():
        marker = "o" if "f" not in name else "s" if name.endswith(" 4") else "^"
        ax.plot(one["apart"], one["gap"], marker, ms=5, alpha=0.8, label=name,
                color=colours[name.split(",")[0]])  # fmt: skip
    ax.axhline(0, color=ZERO, lw=0.8)
    ax.set_xlabel("mean distance between the spectra of two blocks at the start")
    ax.set_ylabel("log₁₀(SGD's loss / Adam's)")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure


def targeted(ratios: dict[str, Tensor]) -> Figure:
    """The traces of all layers over those without a penalty, for each layer that is penalised."""
    figure, ax = plt.subplots(figsize=(6.5, 3.2))
    for i, ((name, values), colour) in enumerate(
        zip(ratios.items(), (POSITIVE, MARK, NEGATIVE), strict=True)
    ):
        at = torch.arange(1, values.shape[1] + 1) + 0.12 * (i - 1)
        ax.plot(at, values.median(0).values, "o", ms=4.5, color=colour, label=f"{name} penalised")
        ax.vlines(at, values.min(0).values, values.max(0).values, color=colour, lw=1.2)
    ax.axhline(1, color=ZERO, lw=0.8)
    ax.set_yscale("log")
    ax.set_yticks([0.1, 0.2, 0.5, 1], ["0.1", "0.2", "0.5", "1"])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xticks(range(1, 6))
    ax.set_xlabel("layer, from the input on")
    ax.set_ylabel("trace over that without a penalty")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure

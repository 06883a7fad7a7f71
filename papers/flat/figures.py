"""The figures: flatness and accuracy by method at equal loss, and the edges over training."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import torch
from common.claims import interval
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib.figure import Figure
from torch import Tensor

Table = dict[str, dict[str, Tensor]]  # by method: columns of (seeds, targets)
COLOURS = (POSITIVE, MARK, NEGATIVE)
PANELS = (("lambda_max", "λmax over plain SGD's"), ("trace", "trace over plain SGD's"),
          ("accuracy", "points of accuracy over plain SGD"))  # fmt: skip


def beside_plain(table: Table, column: str, plain: str) -> dict[str, Tensor]:
    """Seed by seed (seeds, targets): ratios to plain SGD as logarithms; accuracy in points."""
    if column in ("accuracy", "shifted"):
        return {name: 100 * (rows[column] - table[plain][column]) for name, rows in table.items()}
    return {name: (rows[column] / table[plain][column]).log() for name, rows in table.items()}


def at_equal_loss(table: Table, targets: tuple[float, ...], plain: str) -> Figure:
    """Three panels: λmax and trace over those of plain SGD, and what accuracy gains."""
    others = [name for name in table if name != plain]
    figure, axes = plt.subplots(1, 3, figsize=(10, 0.45 * len(others) + 1.7), sharey=True)
    for ax, (column, label) in zip(axes, PANELS, strict=True):
        found = beside_plain(table, column, plain)
        for j, target in enumerate(targets):
            for i, name in enumerate(others):
                mean, half = interval(found[name][:, j])
                at = i + 0.22 * (j - (len(targets) - 1) / 2)
                low, high, middle = mean - half, mean + half, mean
                if column != "accuracy":
                    low, high, middle = math.exp(low), math.exp(high), math.exp(mean)
                ax.plot([low, high], [at, at], color=COLOURS[j], lw=1.4)
                label_once = f"loss {target:g}" if i == 0 else None
                ax.plot(middle, at, "o", ms=4.5, color=COLOURS[j], label=label_once)
        ax.axvline(0.0 if column == "accuracy" else 1.0, color=ZERO, lw=0.8)
        ax.set_xlabel(label)
    axes[0].set_yticks(range(len(others)), others)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(targets), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.92))
    return figure


def edges(runs: dict[float, list[dict[str, Any]]], lr: float) -> Figure:
    """λmax over training, with 2/lr and the edge of SAM, a panel for each ρ."""
    figure, axes = plt.subplots(1, len(runs), figsize=(10, 3.1), sharey=True)
    for ax, (rho, seeds) in zip(axes, runs.items(), strict=True):
        for i, run in enumerate(seeds):
            first = i == 0
            ax.plot(run["steps"], run["lambda_max"], color=POSITIVE, lw=1, alpha=0.8,
                    label="λmax, a seed each" if first else None)  # fmt: skip
            if rho:
                ax.plot(run["steps"], run["edge"], color=NEGATIVE, lw=1, ls="--", alpha=0.7,
                        label="edge of SAM" if first else None)  # fmt: skip
        ax.axhline(2 / lr, color=ZERO, lw=1, label="2/lr")
        ax.set_title(f"SAM, ρ = {rho:g}" if rho else "gradient descent", fontsize=10)
        ax.set_xlabel("step")
        ax.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("largest eigenvalue")
    axes[0].set_ylim(0, 1.6 * 2 / lr)
    figure.tight_layout()
    return figure


def late(run: dict[str, Tensor]) -> tuple[float, float]:
    """Medians over the second half: λmax over its edge, and λmax."""
    half = len(run["steps"]) // 2
    ratio = run["lambda_max"][half:] / run["edge"][half:]
    return float(torch.median(ratio)), float(torch.median(run["lambda_max"][half:]))


def correlations(found: dict[str, dict[str, tuple[float, float]]]) -> Figure:
    """Kendall's tau of each measure with both accuracies."""
    figure, ax = plt.subplots(figsize=(7, 0.36 * len(found) + 1.2))
    for k, (test, color) in enumerate((("accuracy", POSITIVE), ("shifted", NEGATIVE))):
        at = [i + 0.18 * (2 * k - 1) for i in range(len(found))]
        label = "other digits" if test == "accuracy" else "shifted digits"
        ax.plot([both[test][0] for both in found.values()], at, "o", color=color, label=label)
    ax.axvline(0, color=ZERO, lw=0.8)
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()
    ax.set_xlim(-1, 1)
    ax.set_xlabel("rank correlation of sharpness with accuracy (left: flatter is better)")
    ax.legend(frameon=False, fontsize=8, loc="upper right")
    figure.tight_layout()
    return figure


def scaling(found: dict[str, Tensor]) -> Figure:
    """λmax and ASAM's sharpness over the factor between two layers."""
    figure, ax = plt.subplots(figsize=(5.5, 3.2))
    for name, color in (("lambda_max", POSITIVE), ("ASAM", NEGATIVE)):
        relative = found[name] / found[name][:1]
        label = "λmax" if name == "lambda_max" else "ASAM's sharpness"
        ax.plot(found["factors"], relative, "o-", color=color, lw=1, ms=3, alpha=0.8)
        ax.plot([], [], "o-", color=color, ms=3, label=f"{label}, a seed each")
    ax.set(xscale="log", yscale="log", xlabel="factor between the two layers")
    ax.set_ylabel("over that at factor 1")
    ax.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure

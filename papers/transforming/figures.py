"""The figures: λmax by type over training, and outliers over classes."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import torch
from common.style import NEGATIVE, POSITIVE, ZERO
from matplotlib.figure import Figure

from transforming.looks import TYPES


def course(looks: Any, steps: tuple[int, ...]) -> Figure:
    """λmax of each type over training, of H and preconditioned: medians over seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    colours = plt.get_cmap("tab10")(range(len(TYPES)))
    for ax, which, title in zip(axes, "HP", ("Hessian", "as Adam sees it"), strict=True):
        for (kind, colour), dash in zip(
            zip(TYPES, colours, strict=True), 5 * ["-", "--"], strict=True
        ):
            tops = torch.stack([
                torch.stack([row[i][f"{which}/{kind}"][-1] for row in looks]).median()
                for i in range(len(steps))
            ])  # fmt: skip
            ax.plot(steps, tops, dash, marker="o", ms=3.5, lw=1.3, color=colour, label=kind)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(steps, [str(s) for s in steps])
        ax.set_xticks([], minor=True)
        ax.set_xlabel("steps of Adam")
        ax.set_title(title, fontsize=10)
    axes[0].set_ylabel("largest eigenvalue of a type")
    axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure


def classes(found: Any) -> Figure:
    """A point for each seed."""
    figure, axes = plt.subplots(1, len(found), figsize=(8, 3.3), sharey=True)
    for ax, (task, by) in zip(axes, found.items(), strict=True):
        most = max(by)
        ax.plot([1, most + 1], [0, most], color=ZERO, lw=1, label="C - 1")
        for which, colour, aside in (("G", POSITIVE, -0.15), ("H", NEGATIVE, 0.15)):
            for i, (number, rows) in enumerate(by.items()):
                counts = [float(row[f"{which}/count"]) for row in rows]
                at = [number + aside + 0.02 * j for j in range(len(counts))]
                label = {"G": "Gauss-Newton", "H": "Hessian"}[which] if i == 0 else None
                ax.plot(at, counts, "o", ms=4, alpha=0.7, color=colour, label=label)
        ax.set_title(task, fontsize=10)
        ax.set_xticks(list(by))
        ax.set_xlabel("classes C")
    axes[0].set_ylabel("eigenvalues before the largest gap")
    axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure

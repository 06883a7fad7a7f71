"""Figures of the courses and passage times."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import torch
from common.keeping import Arrays
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acting import autoencoder, saddles
from acting.settings import Settings

COLOURS = {
    "SGD, all": "#8a8f98",
    "SGD, batches": "#b8860b",
    "Adam, all": "#2f6db3",
    "Adam, batches": "#5aa9a1",
    "Adam": "#2f6db3",
    "SOAP": "#5aa9a1",
    "L-BFGS": "#7b5ea7",
    "NewtonCG": "#c8553d",
}


_AT_THE_RIGHT = {"va": "bottom", "ha": "right", "fontsize": 8}


def passages(plane: Arrays, own: Arrays, s: Settings) -> Figure:
    """Noise of every size on the left, the network's own saddle on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    noisy = plane["noisy"].double()
    x = torch.tensor([1 / radius for radius in s.radii])
    start, slope = saddles.line(s.radii, plane["noisy"])
    left.plot(x, start + slope * x.log(), color="#8a8f98", lw=1)
    low, middle, high = (noisy.quantile(q, dim=1) for q in (0.05, 0.5, 0.95))
    left.errorbar(x, middle, [middle - low, high - middle], fmt="o", color="#2f6db3", capsize=3)
    left.set_xscale("log")
    left.set_xlabel("1/radius of the noise")
    left.set_ylabel("steps to loss < 0.01")
    left.set_title(
        "PerturbedSGD from exactly on the manifold\n"
        f"median = {start:.0f} + {slope:.1f} log(1/radius)"
    )
    for i in range(len(saddles.METHODS)):
        for k, (label, colour) in enumerate(
            (("symmetric to rounding", "#8a8f98"), ("1e-6 off", "#c8553d"))
        ):
            steps = own["steps"][k, i].double()
            there = steps[steps >= 0]
            right.plot(
                [i + 0.24 * (k - 0.5)] * len(there),
                there,
                "o",
                ms=4,
                color=colour,
                alpha=0.8,
                label=label if i == 0 else None,
            )
    right.set_yscale("log")
    right.set_xticks(
        range(4), ["gradient\ndescent", "momentum", "Perturbed-\nSGD", "SaddleFree-\nNewton"]
    )
    right.set_ylabel("steps to half the saddle's loss")
    right.set_title("A linear network of three layers,\nhidden units alike")
    right.legend(frameon=False, fontsize=8)
    return figure


def autoencoders(found: dict[str, Any], best: float, constant: float) -> Figure:
    """Loss above what is possible, at equal gradients and at equal seconds."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for ax, unit in zip(axes, ("gradients", "seconds"), strict=True):
        _courses(ax, autoencoder.each(found["courses"]), unit, best)
        ax.axhline(constant - best, color="black", lw=0.8, ls=":")
        ax.set_xlabel(
            {"gradients": "gradients of all examples", "seconds": "processor seconds"}[unit]
        )
        shortest = [min(float(c[unit][-1]) for c in runs) for runs in found["courses"].values()]
        ax.set_xlim(0, min(shortest))
    axes[0].set_ylabel("loss above that of perfect images")
    axes[0].set_ylim(None, 2 * (constant - best))
    axes[0].text(
        0.98,
        constant - best,
        "the mean image",
        transform=axes[0].get_yaxis_transform(),
        **_AT_THE_RIGHT,
    )
    axes[1].legend(frameon=False, fontsize=8)
    return figure


def steps(found: dict[str, Any]) -> Figure:
    """Loss by steps, and by gradients."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for ax, unit in zip(axes, ("steps", "gradients"), strict=True):
        _courses(ax, autoencoder.each(found["courses"]), unit, 0.0)
        ax.set_xlabel({"steps": "steps", "gradients": "gradients of all examples"}[unit])
    axes[0].set_ylabel("training loss")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _courses(ax: Axes, each: Any, unit: str, best: float) -> None:
    seen = set()
    for name, course in each:
        ax.plot(
            course[unit],
            course["loss"] - best,
            color=COLOURS[name],
            lw=1,
            alpha=0.8,
            label=None if name in seen else name,
        )
        seen.add(name)
    ax.set_yscale("log")

"""Initial weights of all sizes: the loss after training, and what the verdict said before it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from common import data
from common.claims import Claim, number, spread, verdict
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

import hesscope as hs

HE, GLOROT = math.sqrt(2), 1.0
GAINS = (0.2, 1 / math.sqrt(3), GLOROT, HE, 4.0)  # std of a weight times √inputs
NAMES = ("too small, 0.2", "torch's own, 0.58", "Glorot, 1", "He, 1.41", "too large, 4")
SETTINGS = (("relu", 4), ("tanh", 4), ("relu", 8))  # and hidden layers
ADVISED = {"relu": 3, "tanh": 2}  # places in GAINS
KEPT = "signals keep their size"


def measure(run: Run, sizes: Any) -> Section:
    """Trains from all gains in all settings, each with its best learning rate."""
    found = [
        run.arrays(
            f"starts/{activation}-{depth}",
            (sizes.starts, sizes.seeds, GAINS),
            lambda activation=activation, depth=depth: trained(activation, depth, sizes),
        )
        for activation, depth in SETTINGS[: sizes.settings]
    ]
    claims = [
        better(activation, depth, part["losses"])
        for (activation, depth), part in zip(SETTINGS, found, strict=False)
    ]
    told = foretold([part["losses"] for part in found], [part["kept"] for part in found])
    return Section(text(found, sizes), [*claims, told], draw(found))


def weights(layers: tuple[int, ...], gain: float, seed: int) -> Tensor:
    """θ with weights of standard deviation gain/√inputs and biases of zero."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for inner, outer in pairwise(layers):
        W = torch.randn(outer, inner, generator=generator, dtype=torch.float64)
        parts += [(gain / math.sqrt(inner) * W).flatten(), torch.zeros(outer, dtype=torch.float64)]
    return torch.cat(parts)


def trained(activation: str, depth: int, sizes: Any) -> Arrays:
    """Losses (gain, seed) after training at the best lr of the gain, that lr, and `kept`."""
    examples, width, steps, lrs = sizes.starts
    X, y = data.digits(examples=examples, pool=4)
    X = (X - X.mean()) / X.std()
    layers = (X.shape[1], *[width] * depth, 10)
    losses, best, kept = [], [], []
    for gain in GAINS:
        theta = torch.stack([weights(layers, gain, seed) for seed in range(sizes.seeds)])
        start = hs.ensemble.Ensemble(layers, activation, theta)
        ends = torch.stack([
            hs.ensemble.train(start, X, y, lr=lr, steps=steps).losses for lr in lrs
        ]).nan_to_num(math.inf)  # fmt: skip
        i = int(ends.median(1).values.argmin())
        losses.append(ends[i])
        best.append(lrs[i])
        kept.append([keeps(start.member(seed), X, y) for seed in range(sizes.seeds)])
    return {"losses": torch.stack(losses), "lr": torch.tensor(best), "kept": torch.tensor(kept)}


def keeps(model: torch.nn.Module, X: Tensor, y: Tensor) -> bool:
    """Whether the verdict "initialisation" says that signals keep their size."""
    problem = hs.Problem(model, F.cross_entropy, (X, y))
    look = hs.diagnose(problem, max_matvecs=12, check=False, seed=0)
    return look.verdict("initialisation").claim.startswith(KEPT)


def better(activation: str, depth: int, losses: Tensor) -> Claim:
    """YES if the advised gain ends lower than both extremes in each seed, PARTLY in the median."""
    i = ADVISED[activation]
    ours, small, large = losses[i], losses[0], losses[-1]
    always = bool(((ours < small) & (ours < large)).all())
    middle = [float(x.median()) for x in (ours, small, large)]
    least = NAMES[int(losses.median(1).values.argmin())]
    who = NAMES[i].split(",")[0]
    return Claim(
        f"{who}'s weights train better than smaller and larger ones ({activation}, {depth} hidden "
        "layers)",
        f"loss {spread(ours)}; too small {spread(small)}; too large {spread(large)}; lowest: "
        f"{least}",
        verdict(always, middle[0] < min(middle[1:])),
        "debugging/initialisation",
        ()
        if middle[0] < min(middle[1:])
        else tuple(f"{a}, {d} hidden layers" for a, d in SETTINGS),
    )


def foretold(losses: list[Tensor], kept: list[Tensor]) -> Claim:
    """YES if in each setting every gain that keeps signals ends lower than every one that does not.

    By medians over seeds; a gain keeps signals if it does in most seeds. PARTLY if that holds of
    nine pairs in ten.
    """
    right = pairs = 0
    for loss, keep in zip(losses, kept, strict=True):
        middle, good = loss.median(1).values, keep.double().mean(1) > 0.5
        for a in middle[good].tolist():
            for b in middle[~good].tolist():
                pairs, right = pairs + 1, right + (a < b)
    flagged = sum(int((keep.double().mean(1) <= 0.5).sum()) for keep in kept)
    return Claim(
        "The verdict initialisation tells before training which weights will train worse",
        f"{flagged} of {len(GAINS) * len(losses)} starts are warned of; a start that is not ends "
        f"lower than one that is in {right} of {pairs} pairs of the same network",
        verdict(right == pairs, right >= 0.9 * pairs),
        "debugging/initialisation",
        () if right >= 0.9 * pairs else tuple(f"{a}, {d} hidden layers" for a, d in SETTINGS),
    )


def text(found: list[Arrays], sizes: Any) -> str:
    """The table of losses."""
    examples, width, steps, lrs = sizes.starts
    rows = []
    for (activation, depth), part in zip(SETTINGS, found, strict=False):
        for name, loss, lr, keep in zip(
            NAMES, part["losses"], part["lr"], part["kept"], strict=True
        ):
            told = f"{int(keep.sum())} of {len(keep)}"
            rows.append([f"{activation}, {depth}", name, number(float(lr)), told, spread(loss)])
    head = ["network", "gain", "best lr", "verdict: kept", "loss"]
    return (
        f"Perceptrons 49-{width}-...-{width}-10 on {examples} digits of 7 x 7 pixels, "
        "cross-entropy "
        f"(chance 2.3), {steps} steps of gradient descent on all data. The gain is the standard "
        f"deviation of a weight times the root of the number of inputs. Each gain has the best of "
        f"lr {', '.join(f'{lr:g}' for lr in lrs)}. *Kept*: in so many seeds `hs.diagnose` says of "
        "the untrained network that signals keep their size within a factor of ten.\n\n"
        f"{table(head, rows)}"
    )


def draw(found: list[Arrays]) -> Figure:
    """The loss over the gain, a panel for each setting."""
    figure, axes = plt.subplots(1, len(found), figsize=(9.5, 3.2), sharey=True, squeeze=False)
    for ax, (activation, depth), part in zip(axes[0], SETTINGS, found, strict=False):
        losses = part["losses"].clamp(max=1e3)
        for loss in losses.T:
            ax.plot(GAINS, loss, "-", color=ZERO, lw=0.8, alpha=0.7)
        kept = part["kept"].double().mean(1) > 0.5
        for j, gain in enumerate(GAINS):
            color, word = (POSITIVE, "kept") if kept[j] else (NEGATIVE, "not kept")
            ax.plot([gain] * losses.shape[1], losses[j], "o", ms=4, color=color, label=word)
        advised = GAINS[ADVISED[activation]]
        ax.axvline(
            advised, color=MARK, lw=1, ls="--", label="He" if activation == "relu" else "Glorot"
        )
        ax.set(
            xscale="log", yscale="log", xlabel="gain", title=f"{activation}, {depth} hidden layers"
        )
        ax.set_xticks(GAINS, [f"{gain:.2g}" for gain in GAINS])
        ax.minorticks_off()
        handles, labels = ax.get_legend_handles_labels()
        own = dict(zip(labels, handles, strict=True))
        ax.legend(own.values(), own.keys(), frameon=False, fontsize=8)
    axes[0, 0].set_ylabel("loss after training")
    figure.tight_layout()
    return figure

"""Descent on all data and on batches, with and without momentum: what noise and speed they add."""

from __future__ import annotations

import math
from typing import Any

import torch
from common import data
from common.claims import NO, PARTLY, YES, Claim, number, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

WAYS = {"all data": (0, 0.0), "all data, momentum": (0, 0.9), "batches of 100": (100, 0.0),
        "batches of 10": (10, 0.0), "batches of 10, momentum": (10, 0.9)}  # fmt: skip
SAME = (0.3, 1.0)
TARGETS = (0.5, 0.1)
FULL, SMALL = "all data", "batches of 10"
COLORS = (ZERO, MARK, "#7fa7d6", POSITIVE, NEGATIVE)


def measure(run: Run, sizes: Any) -> Section:
    """Chooses a learning rate for each way on seed 0, then trains all seeds."""
    found = {
        name: run.arrays(
            f"noise/{i}", (sizes.noise, sizes.seeds, way), lambda way=way: trained(*way, sizes)
        )
        for i, (name, way) in enumerate(WAYS.items())
    }
    same = {
        lr: run.arrays(
            f"noise/same-{lr:g}", (sizes.noise, sizes.seeds), lambda lr=lr: alike(lr, sizes)
        )
        for lr in SAME
    }
    claims = [noisy(found, same), faster(found), pushed(found)]
    return Section(text(found, sizes), claims, draw(found))


def trained(batch: int, momentum: float, sizes: Any) -> Arrays:
    """Passes over the data until each target, (seed, target); the chosen lr; losses over passes."""
    examples, lrs, steps = sizes.noise
    lrs = [lr * (1 - momentum) for lr in lrs]
    tries = [course(batch, momentum, lr, 0, examples, steps) for lr in lrs]
    best = min(range(len(lrs)), key=lambda i: (reached(*tries[i])[-1], float(tries[i][1][-1])))
    runs = [course(batch, momentum, lrs[best], s, examples, steps) for s in range(sizes.seeds)]
    return {
        "lr": torch.tensor(lrs[best]),
        "passes": torch.tensor([reached(*run) for run in runs]),
        "loss": torch.nn.utils.rnn.pad_sequence(
            [run[1] for run in runs], batch_first=True, padding_value=math.nan
        ),
        "up": torch.tensor([rises(run[1]) for run in runs]),
    }


def course(
    batch: int, momentum: float, lr: float, seed: int, examples: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Passes over the data and the loss on all of it then, until it is below the last target."""
    X, y = data.digits(examples=examples, pool=4)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(49, 32), nn.Tanh(), nn.Linear(32, 10)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    batch = min(batch or examples, examples)
    per_pass, generator = examples // batch, torch.Generator().manual_seed(seed)
    at, losses = [], []
    for _ in range(max(steps // per_pass, 2)):
        order = torch.randperm(examples, generator=generator)
        with torch.no_grad():
            at.append(float(len(at)))
            losses.append(float(F.cross_entropy(model(X), y)))
        if not TARGETS[-1] < losses[-1] < math.inf:
            break
        for i in range(per_pass):
            some = order[i * batch : (i + 1) * batch] if per_pass > 1 else slice(None)
            optimizer.zero_grad()
            F.cross_entropy(model(X[some]), y[some]).backward()
            optimizer.step()
    return torch.tensor(at), torch.tensor(losses, dtype=torch.float64).nan_to_num(math.inf)


def reached(at: Tensor, losses: Tensor) -> list[float]:
    """The first look below each target; infinite where there is none."""
    below = [(losses <= target).nonzero() for target in TARGETS]
    return [float(at[int(i[0])]) if len(i) else math.inf for i in below]


def rises(losses: Tensor) -> float:
    """The share of passes over the data after which the loss is higher."""
    end = (
        int((losses <= TARGETS[-1]).nonzero()[0]) + 1
        if bool((losses <= TARGETS[-1]).any())
        else len(losses)
    )
    return float((losses[1:end] > losses[: end - 1]).double().mean()) if end > 1 else 0.0


def alike(lr: float, sizes: Any) -> Arrays:
    """The shares of passes that raise the loss, of both at the same learning rate."""
    examples, _, steps = sizes.noise
    runs = {
        name: [course(*WAYS[name], lr, s, examples, steps // 4)[1] for s in range(sizes.seeds)]
        for name in (FULL, SMALL)
    }
    return {name: torch.tensor([rises(losses) for losses in found]) for name, found in runs.items()}


def noisy(found: dict[str, Arrays], same: dict[float, Arrays]) -> Claim:
    """YES if batches of ten raise the loss in more passes than all data do, in each seed.

    At the best learning rate of each, and at the same ones. "Only when" at the same, if there.
    """
    pairs = {"each at its best lr": (found[SMALL]["up"], found[FULL]["up"])}
    pairs |= {f"both at lr {lr:g}": (part[SMALL], part[FULL]) for lr, part in same.items()}
    more = [bool((small > full).all()) for small, full in pairs.values()]
    holds = YES if all(more) else PARTLY if any(more) else NO
    if all(more[1:]) and not more[0]:
        holds = "only when compared at one learning rate"
    told = tuple(
        f"{name}: batches of ten {spread(small)}, all data {spread(full)}"
        for name, (small, full) in pairs.items()
    )
    return Claim(
        "Stochastic gradients add noise",
        f"share of passes that end at a higher loss, up to {TARGETS[-1]:g}: {'; '.join(told)}",
        holds,
        "debugging/sgd-noise",
        told if holds == NO else (),
    )


def faster(found: dict[str, Arrays]) -> Claim:
    """YES if at equal gradients of examples small batches reach both targets first in each seed.

    Each at its best learning rate. PARTLY if one target, or most seeds; NO otherwise.
    """
    ratio = found[FULL]["passes"] / found[SMALL]["passes"]
    first = ratio > 1
    holds = YES if bool(first.all()) else PARTLY if float(first.double().mean()) > 0.5 else NO
    told = "; ".join(
        f"to {target:g} all data {passes(found[FULL], j)} passes, batches of ten "
        f"{passes(found[SMALL], j)}"
        for j, target in enumerate(TARGETS)
    )
    return Claim(
        "Stochastic gradients add speed",
        told,
        holds,
        "debugging/sgd-noise",
        (SMALL, "batches of 100", "batches of 10, momentum") if holds == NO else (),
    )


def pushed(found: dict[str, Arrays]) -> Claim:
    """YES if momentum reaches both targets in fewer passes in each seed on all data and batches.

    PARTLY if on one of the two, or in the median.
    """
    wins = {
        name: found[name]["passes"] / found[f"{name}, momentum"]["passes"] for name in (FULL, SMALL)
    }
    sure = [bool((ratio > 1).all()) for ratio in wins.values()]
    return Claim(
        "Momentum adds speed",
        "passes without over passes with momentum 0.9, each at its best lr: "
        + "; ".join(
            f"{name}, to {target:g}: {spread(ratio[:, j])}"
            for name, ratio in wins.items()
            for j, target in enumerate(TARGETS)
        ),
        YES if all(sure) else PARTLY if any(sure) else NO,
        "debugging/sgd-noise",
        (FULL, SMALL, "the best of all lr") if not any(sure) else (),
    )


def passes(part: Arrays, j: int) -> str:
    """Passes to one target."""
    return spread(part["passes"][:, j])


def text(found: dict[str, Arrays], sizes: Any) -> str:
    """Passes by way."""
    examples, lrs, most = sizes.noise
    rows = [
        [
            name,
            number(float(part["lr"])),
            *(passes(part, j) for j in range(len(TARGETS))),
            spread(part["up"]),
        ]
        for name, part in found.items()
    ]
    head = [
        "steps from",
        "lr",
        *(f"passes to {target:g}" for target in TARGETS),
        "passes that raise the loss",
    ]
    return (
        f"A perceptron 49-32-10 (tanh) on {examples} digits of 7 x 7 pixels, cross-entropy, at "
        f"most {most:,} steps. A pass over the data costs as many gradients of examples whatever "
        "the "
        "batch. "
        f"Each way has the best of lr {', '.join(f'{lr:g}' for lr in lrs)} on seed 0, a tenth of "
        "them "
        f"with momentum 0.9.\n\n{table(head, rows)}"
    )


def draw(found: dict[str, Arrays]) -> Figure:
    """The loss on all data over passes."""
    figure, ax = plt.subplots(figsize=(7.5, 3.6))
    for (name, part), color in zip(found.items(), COLORS, strict=True):
        for i, loss in enumerate(part["loss"]):
            ax.plot(
                torch.arange(len(loss)) + 1,
                loss,
                color=color,
                lw=0.9,
                alpha=0.7,
                label=name if i == 0 else None,
            )
    for target in TARGETS:
        ax.axhline(target, color="black", lw=0.7, ls=":")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="passes over the data, and one",
        ylabel="loss on all data",
        ylim=(1e-2, 6),
    )
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    figure.tight_layout()
    return figure

"""Gradient steps of all lengths on many small networks: which raise the loss, and which should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from common import data
from common.claims import NO, PARTLY, YES, Claim, number, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import NEGATIVE, POSITIVE, ZERO
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

import hesscope as hs

LAYERS = (2, 6, 6, 2)
ACTIVATIONS = ("tanh", "relu")
MULTIPLES = (0.01, 0.1, 0.25, 0.5, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 2.0, 4.0, 10.0)
HALVINGS = 60
TOP = 2.0
TRIED = ("tanh", "ReLU", "three times of training", "steps of 1/100 to 10 times the limit")


def measure(run: Run, sizes: Any) -> Section:
    """Both activations, at several times of training."""
    found = {
        activation: run.arrays(
            f"steps/{activation}",
            (sizes.steps, MULTIPLES, "beside"),
            lambda activation=activation: stepped(activation, *sizes.steps),
        )
        for activation in ACTIVATIONS
    }
    claims = [rises(found, sizes.steps[2]), shorter(found)]
    return Section(text(found, sizes), claims, draw(found, sizes.steps[2]))


def stepped(activation: str, num: int, examples: int, times: tuple[int, ...]) -> Arrays:
    """By time and network: the step that the Hessian allows, which multiples of it raise the loss.

    `beside` is λmax over g'Hg/g'g, 1 where the gradient is the sharpest direction. `limit` is
    2 g'g/g'Hg, infinite where g'Hg <= 0; `up` is (time, multiple, network), with
    multiples of the median limit where there is none; `longest` is the first step that raises the
    loss, by halving and doubling, over the limit.
    """
    X, y = data.blobs(examples, 0.7)
    start = hs.ensemble.initialise(LAYERS, num, seed=0, activation=activation)
    trained = hs.ensemble.train(start, X, y, lr=0.1, steps=max(times), record=times)
    limits, ups, cures, beside = [], [], [], []
    for time in times:
        e = trained.snapshots[time]
        g = hs.ensemble.gradients(e, X, y)
        H = hs.ensemble.hessians(e, X, y)
        slope, curvature = g.square().sum(1), torch.einsum("ki,kij,kj->k", g, H, g)
        limit = torch.where(curvature > 0, 2 * slope / curvature, torch.inf)
        alive = slope > 1e-16
        scale = limit.where(limit.isfinite(), limit[limit.isfinite()].median())
        before = hs.ensemble.losses(e, X, y)

        def up(step: Tensor, e: Any = e, g: Tensor = g, before: Tensor = before) -> Tensor:
            moved = replace(e, theta=e.theta - step[:, None] * g)
            return hs.ensemble.losses(moved, X, y) > before

        rows = torch.stack([up(multiple * scale) for multiple in MULTIPLES])
        limits.append(limit.where(alive, torch.nan))
        ups.append(rows)
        beside.append(torch.linalg.eigvalsh(H)[:, -1] * limit / 2)
        cures.append(cured(up, MULTIPLES[-1] * scale))
    return {
        "limit": torch.stack(limits),
        "up": torch.stack(ups),
        "halvings": torch.stack(cures),
        "beside": torch.stack(beside),
    }


def cured(up: Any, step: Tensor) -> Tensor:
    """How often a step has to be halved until it no longer raises the loss; -1: never."""
    halvings = torch.full_like(step, -1)
    for i in range(HALVINGS):
        falls = ~up(step * 0.5**i)
        halvings = halvings.where((halvings >= 0) | ~falls, torch.full_like(step, i))
    return halvings


def agreement(part: Arrays) -> tuple[Tensor, Tensor]:
    """(time, multiple) the share of networks where the rule is right, among those with a limit.

    And the share among those without one, that is with g'Hg <= 0, where no step should rise.
    """
    limit, up = part["limit"], part["up"]
    bounded, unbounded = limit.isfinite(), limit.isinf()
    expected = torch.tensor(MULTIPLES)[None, :, None] > 1
    right = (up == expected) & bounded[:, None]
    falls = ~up & unbounded[:, None]
    return (
        right.sum(2) / bounded.sum(1)[:, None],
        falls.sum(2) / unbounded.sum(1)[:, None].clamp(min=1),
    )


def near_the_top(part: Arrays) -> float:
    """The least share, over lengths, of networks where the rule is right, if `beside` is below TOP.

    All times together; NaN where there are no such networks.
    """
    some = part["limit"].isfinite() & (part["beside"] < TOP)
    expected = torch.tensor(MULTIPLES)[None, :, None] > 1
    right = ((part["up"] == expected) & some[:, None]).sum((0, 2)) / some.sum()
    away = torch.tensor([not 0.8 < m < 1.25 for m in MULTIPLES])
    return float(right[away].min())


def rises(found: dict[str, Arrays], times: tuple[int, ...]) -> Claim:
    """YES if the rule is right in 99 % of networks at each multiple and time, PARTLY if in 90 %.

    At multiples of at most 0.8 and at least 1.25: nearer to 1 any remainder decides. PARTLY, too,
    if in 90 % of shorter steps, or of longer ones. Else, "only when" if in 90 % at each multiple
    of those networks whose λmax is less than TOP times the curvature along the gradient.
    """
    away = [i for i, m in enumerate(MULTIPLES) if not 0.8 < m < 1.25]
    shares = {name: agreement(part)[0][:, away] for name, part in found.items()}
    least = min(float(share.min()) for share in shares.values())
    below = [i for i, j in enumerate(away) if MULTIPLES[j] < 1]
    above = [i for i, j in enumerate(away) if MULTIPLES[j] > 1]
    sides = {
        word: min(float(share[:, side].min()) for share in shares.values())
        for word, side in (("shorter", below), ("longer", above))
    }
    holds = YES if least >= 0.99 else PARTLY if least >= 0.9 or max(sides.values()) >= 0.9 else NO
    tops = {name: near_the_top(part) for name, part in found.items()}
    if holds == NO and min(tops.values()) >= 0.9:
        holds = "only when the gradient lies along the sharpest directions"
    per_time = "; ".join(
        f"{name} after {time} steps: {100 * float(share[i].mean()):.1f} %"
        for name, share in shares.items()
        for i, time in enumerate(times)
    )
    return Claim(
        "A gradient step raises the loss where ½ ε g'Hg > g'g, and only there",
        f"right for {per_time} of networks and step lengths; the least share at one length: "
        + ", ".join(f"{100 * share:.1f} % of {word} steps" for word, share in sides.items())
        + f"; where λmax is less than {TOP:g} times the curvature along the gradient: "
        + ", ".join(f"{name} {100 * share:.1f} %" for name, share in tops.items()),
        holds,
        "debugging/step-raises",
        gentle(found, tops) if holds == NO else (),
    )


def gentle(found: dict[str, Arrays], tops: dict[str, float]) -> tuple[str, ...]:
    """Where the rule had its best chance, and in how many networks it was right there."""
    short = [i for i, multiple in enumerate(MULTIPLES) if multiple <= 0.1]
    away = [i for i, multiple in enumerate(MULTIPLES) if not 0.8 < multiple < 1.25]
    smooth = agreement(found["tanh"])[0][:, away]
    middle = len(smooth) // 2
    least = min(float(agreement(part)[0][:, short].min()) for part in found.values())
    return (
        f"smooth networks after a few steps: {100 * float(smooth[middle].mean()):.0f} % right",
        f"steps of a tenth of the limit and less: {100 * least:.0f} % at least",
        "gradients along the sharpest directions: "
        + ", ".join(f"{100 * share:.0f} % ({name})" for name, share in tops.items()),
    )


def shorter(found: dict[str, Arrays]) -> Claim:
    """YES if halving cures each step that rises, wherever the gradient is not rounding."""
    halvings = torch.cat(
        [part["halvings"][part["limit"] == part["limit"]] for part in found.values()]
    )
    rose = halvings != 0
    bad = int((halvings < 0).sum())
    return Claim(
        "Where a step raises the loss, a shorter one lowers it",
        f"of {int(rose.sum()):,} steps of ten limits that raise the loss {bad} never fall; the "
        "others "
        f"after {spread(halvings[halvings > 0])} halvings",
        YES if bad == 0 else PARTLY if bad <= 0.01 * int(rose.sum()) else NO,
        "debugging/step-raises",
        () if bad <= 0.01 * int(rose.sum()) else TRIED,
    )


def text(found: dict[str, Arrays], sizes: Any) -> str:
    """Shares by multiple."""
    num, examples, times = sizes.steps
    head = ["step / limit", *(f"{name}, {time} steps" for name in found for time in times)]
    shares = [agreement(part)[0] for part in found.values()]
    rows = [
        [f"{multiple:g}", *(f"{100 * float(x):.1f} %" for share in shares for x in share[:, j])]
        for j, multiple in enumerate(MULTIPLES)
    ]
    free = [part["limit"].isinf() for part in found.values()]
    falls = [agreement(part)[1] for part in found.values()]
    where = "; ".join(
        f"{name}: {int(none.sum())} points, where the loss falls at "
        f"{100 * float(fall[none.any(1)].mean()):.0f} % "
        "of lengths"
        for name, none, fall in zip(found, free, falls, strict=True)
        if bool(none.any())
    )
    return (
        f"{num:,} networks 2-6-6-2 for each activation, on {examples} points of two overlapping "
        "clouds, "
        f"after {', '.join(map(str, times))} steps of descent. The limit of a network is ε = 2 "
        "g'g/g'Hg "
        "with its exact Hessian. The table has the share of networks where the sign of L(θ - ε g) "
        "- "
        "L(θ) is the one foretold.\n\n"
        f"{table(head, rows)}\n\nLate the gradient lies in flat directions, the limit is long "
        f"(median λmax over the curvature along the gradient, by time: {flatness(found)}), and "
        "what "
        "lies beyond second order decides. "
        "Early it is the other way round: at 1.25 limits most losses still fall.\n\nWhere g'Hg ≤ 0 "
        "there is no limit, and no step "
        "should rise "
        f"({where or 'nowhere here'})."
    )


def flatness(found: dict[str, Arrays]) -> str:
    """The median of `beside` by network and time."""
    return "; ".join(
        f"{name} {', '.join(number(float(row[row.isfinite()].median())) for row in part['beside'])}"
        for name, part in found.items()
    )


def draw(found: dict[str, Arrays], times: tuple[int, ...]) -> Figure:
    """The share of networks whose loss rises, over the step's length."""
    figure, axes = plt.subplots(1, len(found), figsize=(9.5, 3.2), sharey=True)
    colors = (ZERO, POSITIVE, NEGATIVE)
    for ax, (name, part) in zip(axes, found.items(), strict=True):
        bounded = part["limit"].isfinite()
        share = (part["up"] & bounded[:, None]).sum(2) / bounded.sum(1)[:, None]
        for row, time, color in zip(share, times, colors, strict=False):
            ax.plot(
                MULTIPLES, 100 * row, "o-", ms=3.5, lw=1, color=color, label=f"after {time} steps"
            )
        ax.plot([0.01, 1, 1, 10], [0, 0, 100, 100], color="black", lw=0.8, ls=":", label="foretold")
        ax.set(xscale="log", xlabel="step length over 2 g'g/g'Hg", title=name)
        ax.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("% of networks whose loss rises")
    figure.tight_layout()
    return figure

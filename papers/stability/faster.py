"""What curvature tells to go faster: a learning rate beside a search, and Newton's step."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from common.claims import NO, YES, Claim, number, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from stability.racing import AGAIN, GRID, RACES, USUAL, raced

NEAR = 1.5  # times the steps of the best of the grid
STATEMENT = "sagun/faster"


def faster(run: Run, sizes: Any) -> Section:
    """All trainings, with all learning rates."""
    found = {}
    for i, (name, race) in enumerate(list(RACES.items())[: sizes.races]):
        race = replace(race, steps=min(race.steps, sizes.faster))
        key = (race, sizes.seeds, GRID, USUAL, AGAIN)
        job = partial(raced, race, sizes.seeds)
        found[name] = run.arrays(f"faster/{i}", key, job)
    claims = [near_the_best(found), beats_the_usual(found), cheaper(found), by_newton(found)]
    return Section(text(found), claims, draw(found))


def best(part: Arrays) -> int:
    """The place of the lr of the grid with the fewest steps, by the worst seed.

    As one would have to choose it: one for all seeds.
    """
    return int(part["grid"].max(1).values.argmin())


def searched(part: Arrays) -> Tensor:
    """Steps of a whole search, by seed, each training stopped when the best is at the goal.

    In favour of the search: one that does not know the best beforehand takes more.
    """
    return part["grid"].minimum(part["grid"][best(part)]).sum(0)


def asked(part: Arrays, name: str, way: str) -> Tensor:
    """What training with advice costs with its price, by seed, in gradients of all data."""
    return part[way] * RACES[name].share + part[f"{way}_price"]


def near_the_best(found: dict[str, Arrays]) -> Claim:
    """Borne out where lr asked anew needs at most NEAR times the steps of the best of the grid.

    By the median over seeds.
    """
    over = {name: part["often"] / part["grid"][best(part)] for name, part in found.items()}
    once = {name: part["once"] / part["grid"][best(part)] for name, part in found.items()}
    told = "; ".join(
        f"{name} {spread(ratio)} (asked once: {number(float(once[name].median()))})"
        for name, ratio in over.items()
    )
    return _claim(
        "A learning rate from curvature trains about as fast as the best of a search",
        f"steps over those of the best of {len(GRID)} learning rates: {told}",
        {name: float(ratio.median()) <= NEAR for name, ratio in over.items()},
    )


def beats_the_usual(found: dict[str, Arrays]) -> Claim:
    """Borne out where asking once needs fewer steps than each usual lr, in each seed."""
    over = {
        name: (part["once"] / part["usual"].min(0).values).nan_to_num(1)
        for name, part in found.items()
    }
    usual = " and ".join(f"{lr:g}" for lr in USUAL)
    return _claim(
        "A learning rate from curvature is faster than one that is taken without looking",
        f"steps with advice asked once over those of the better of lr {usual}: {_list(over)}",
        {name: bool((ratio < 1).all()) for name, ratio in over.items()},
    )


def cheaper(found: dict[str, Arrays]) -> Claim:
    """Borne out where advice asked once and the training cost less than the search, in each seed.

    In gradients, products counted.
    """
    over = {
        name: asked(part, name, "once") / (searched(part) * RACES[name].share)
        for name, part in found.items()
    }
    return _claim(
        "Asking curvature costs less than searching for a learning rate",
        f"gradients of advice asked once and training over those of the search: {_list(over)}",
        {name: bool((ratio < 1).all()) for name, ratio in over.items()},
    )


def by_newton(found: dict[str, Arrays]) -> Claim:
    """Borne out where Newton takes fewer gradients than the best lr, without or with momentum.

    By the median over seeds, products counted.
    """
    over = {}
    for name, part in found.items():
        if "newton" in part:
            steps = [
                one["grid"][best(one)] for other, one in found.items()
                if RACES[name].rivals(RACES[other])
            ]  # fmt: skip
            over[name] = part["newton"] / min(steps, key=lambda own: float(own.median()))
    return _claim(
        "Curvature in the step itself (hs.optim.NewtonCG) goes faster than descent at its best lr",
        f"gradients of NewtonCG, two a product, over steps of descent or momentum: {_list(over)}",
        {name: float(ratio.median()) < 1 for name, ratio in over.items()},
    )


def _claim(claim: str, measured: str, bears: dict[str, bool]) -> Claim:
    """YES where all trainings bear it out, NO where none does, else "only when" with those."""
    good = [name for name, holds in bears.items() if holds]
    holds = YES if len(good) == len(bears) else f"only when: {'; '.join(good)}" if good else NO
    return Claim(claim, measured, holds, STATEMENT, tuple(bears) if holds == NO else ())


def _list(ratios: dict[str, Tensor]) -> str:
    return "; ".join(f"{name} {spread(ratio)}" for name, ratio in ratios.items())


def text(found: dict[str, Arrays]) -> str:
    """Steps by way."""
    rows = []
    for name, part in found.items():
        lr, race = GRID[best(part)], RACES[name]
        over = spread(lr / (2 * part["lr"])) if race.alone else ""
        ways = [part["usual"][-1], part["once"], part["often"]]
        prices = [part[f"{way}_price"] for way in ("once", "often")]
        rows.append([
            name, f"{race.goal:g}", f"{lr:g}", over, spread(part["grid"][best(part)]),
            spread(searched(part)), spread(part["lr"]), *map(spread, ways), *map(spread, prices),
            spread(part["newton"]) if "newton" in part else "",
        ])  # fmt: skip
    head = ["training", "loss to reach", "best lr", "over 2/λmax", "its steps", "steps of a search",
            "first lr told", f"steps, lr {USUAL[-1]:g}", "steps, asked once", f"every {AGAIN}",
            "gradients asked once", f"every {AGAIN}", "gradients, NewtonCG"]  # fmt: skip
    return f"""\
The perceptrons of the first part, and a linear network. Descent goes on until the loss of all data
is low enough (inf: not in 2,000 steps, 4,000 to the lower loss). The grid has lr from
{GRID[0]:g} to {GRID[-1]:g}, each twice the one before; the best is the one whose slowest seed is
fastest, and in a search each training is stopped when the best is at its goal. `hs.suggest_lr` is
asked before the first step, or anew every {AGAIN} steps. On all data and without momentum it tells
half of 2/λmax, and the best lr lies beyond 2/λmax of the start, but for the linear network, whose
curvature does not change, and one seed of ReLU. With momentum it tells less than it could: the lr
of the best single step. Costs are in gradients of all data, a product counted as two. NewtonCG is
`hs.optim.NewtonCG` as it comes, nothing tuned; a low loss is where it should be at its best.

{table(head, rows)}"""


def draw(found: dict[str, Arrays]) -> Figure:
    """Steps over the learning rate, with those of advice."""
    columns = min(4, len(found))
    lines = -(-len(found) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(2.3 * columns + 0.8, 2.8 * lines + 0.4), sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for ax, (name, part) in zip(axes.flat, found.items(), strict=False):
        for i, column in enumerate(part["grid"].T):
            ax.plot(GRID, column, ".-", color=ZERO, lw=0.8, ms=4,
                    label="a grid, a seed each" if i == 0 else None)  # fmt: skip
        ax.plot(part["lr"], part["once"], "o", ms=5, color=POSITIVE, label="asked once")
        for key, label, color in (
            ("often", f"asked every {AGAIN} steps", MARK),
            ("newton", "NewtonCG, gradients", NEGATIVE),
        ):
            if key in part and bool(part[key].isfinite().any()):
                ax.axhline(float(part[key].median()), color=color, lw=1.3, label=label)
        ax.set(xscale="log", yscale="log", xlim=(0.02, GRID[-1] * 1.5), ylim=(5, 10_000))
        ax.set_title(name.replace(", ", "\n", 1), fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("lr")
    for ax in axes[:, 0]:
        ax.set_ylabel("steps to the loss")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=4, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    return figure

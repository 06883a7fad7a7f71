"""λmax under gradient descent, and that of the preconditioned Hessian under Adam."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from common.claims import NO, PARTLY, YES, Claim, number, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from stability.training import ENTROPY, SQUARED, Course, late, stacked, watched

OVER = "sharpness_over_limit"
LOW, HIGH = 0.9, 1.2  # of the limit: where training is at its edge
COLORS = (ZERO, POSITIVE, NEGATIVE)
DESCENT = {
    f"tanh, {SQUARED}": ("tanh", SQUARED, (0.4, 0.55)),
    f"ReLU, {SQUARED}": ("relu", SQUARED, (1.0, 2.0, 4.0)),
    f"tanh, {ENTROPY}": ("tanh", ENTROPY, (0.5, 1.0, 2.0)),
}
ADAM = {f"tanh, {SQUARED}": ("tanh", SQUARED, (1e-2, 2e-2))}


def descent(run: Run, sizes: Any) -> Section:
    """Three networks, each with three learning rates."""
    found = measured(run, sizes, DESCENT, adam=False)
    claims = [at_the_edge(name, part, "2/lr") for name, part in found.items()]
    head = (
        "Perceptrons 49-16-10 on 100 digits of 7 x 7 pixels, full-batch gradient descent, "
        f"{sizes.edge[0]:,} steps, looked at every {sizes.edge[1]} by `hs.Monitor`."
    )
    return Section(text(found, head, "λmax · lr/2"), claims, draw(found, "λmax · lr/2"))


def adam(run: Run, sizes: Any) -> Section:
    """Adam on all data."""
    found = measured(run, sizes, ADAM, adam=True)
    claims = [at_the_edge(name, part, "38/lr under Adam") for name, part in found.items()]
    head = (
        "The same network and data, Adam (β₁ 0.9, β₂ 0.999) on all of them. The limit of the "
        "largest "
        "eigenvalue of P⁻¹H, with P the preconditioner of the step, is (2 + 2β₁)/((1 - β₁) lr) = "
        "38/lr; "
        "the monitor follows it as `sharpness_over_limit`."
    )
    return Section(
        text(found, head, "λmax(P⁻¹H) · lr/38"), claims, draw(found, "λmax(P⁻¹H) · lr/38")
    )


def measured(run: Run, sizes: Any, settings: dict[str, Any], *, adam: bool) -> dict[str, Any]:
    """By setting and lr: the series of all seeds."""
    steps, every = sizes.edge
    found: dict[str, dict[float, Arrays]] = {}
    for name, (activation, loss, lrs) in list(settings.items())[: sizes.settings]:
        for lr in lrs:
            course = Course(lr, steps, every, activation, loss, adam=adam)
            rows = ("lambda_max", "stability")
            job = partial(seeds, course, rows, ("lambda_max", OVER), sizes.seeds)
            place = f"edge/{'adam-' if adam else ''}{activation}-{loss[0]}-{lr:g}"
            found.setdefault(name, {})[lr] = run.arrays(place, (course, sizes.seeds), job)
    return found


def seeds(course: Course, rows: Any, keys: tuple[str, ...], num: int) -> Arrays:
    """All seeds of one training."""
    return stacked([watched(course, seed, rows, keys) for seed in range(num)])


def at_the_edge(name: str, part: dict[float, Arrays], limit: str) -> Claim:
    """YES if λmax over its limit is in [LOW, HIGH] late, in each run, PARTLY if in half.

    Late is the median over the last third of the looks. If it came into the range at some look of
    nine runs in ten, but is not there in the end, "only when" says so.
    """
    last = torch.cat([late(runs[OVER]) for runs in part.values()])
    inside = ((last >= LOW) & (last <= HIGH)).double().mean()
    most = torch.cat([runs[OVER].nan_to_num(0).max(1).values for runs in part.values()])
    came = float((most >= LOW).double().mean())
    if bool(inside == 1):
        holds = YES
    elif float(inside) >= 0.5:
        holds = PARTLY
    else:
        holds = "only when the loss has not become small" if came >= 0.9 else NO
    told = "; ".join(
        f"lr {lr:g}: late {spread(late(runs[OVER]))}, at most "
        f"{spread(runs[OVER].nan_to_num(0).max(1).values)}"
        for lr, runs in part.items()
    )
    return Claim(
        f"Training drives λmax to {limit} and keeps it there ({name})",
        f"over that: {told}",
        holds,
        "landscapes/monitor",
        tuple(f"lr {lr:g}" for lr in part) if holds == NO else (),
    )


def text(found: dict[str, dict[float, Arrays]], head: str, what: str) -> str:
    """λmax at the start and late."""
    rows = [
        [
            f"{name}, lr {lr:g}",
            spread(runs["lambda_max"][:, 0]),
            spread(late(runs["lambda_max"])),
            spread(late(runs[OVER])),
            spread(runs["losses"][:, -1]),
            f"{100 * float((runs['losses'].diff(dim=1) > 0).double().mean()):.0f} %",
        ]
        for name, part in found.items()
        for lr, runs in part.items()
    ]
    titles = [
        "training",
        "λmax at first",
        "λmax late",
        f"{what} late",
        "loss at last",
        "steps that raise the loss",
    ]
    return (
        f"{head} Late is the median over the last third; at the edge is {number(LOW)} to "
        f"{number(HIGH)} "
        f"of the limit.\n\n{table(titles, rows)}"
    )


def draw(found: dict[str, dict[float, Arrays]], label: str) -> Figure:
    """The ratio over training, a panel for each network."""
    figure, axes = plt.subplots(1, len(found), figsize=(3.3 * len(found) + 1.6, 3.3), squeeze=False)
    for ax, (name, part) in zip(axes[0], found.items(), strict=True):
        for (lr, runs), color in zip(part.items(), COLORS, strict=False):
            for i, values in enumerate(runs[OVER]):
                ax.plot(runs["step"], values, color=color, lw=0.9, alpha=0.8,
                        label=f"lr {lr:g}" if i == 0 else None)  # fmt: skip
        ax.axhline(1, color=MARK, lw=1, ls="--", label="the limit")
        top = max(float(_most(runs[OVER])) for runs in part.values())
        ax.set(xlabel="step", title=name, ylim=(0, min(max(1.25 * top, 1.6), 4)))
        ax.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    axes[0, 0].set_ylabel(label)
    figure.tight_layout()
    return figure


def _most(values: Tensor) -> Tensor:
    return values.nan_to_num(0).flatten().quantile(0.99)

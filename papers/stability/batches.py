"""SGD: the curvature of batches along their own gradients, and λmax, by batch size."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch
from common.claims import NO, PARTLY, UNDECIDED, YES, Claim, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

import hesscope as hs
from stability.training import Course, stacked, watched

LOOKS = 4  # of the last third
SMALL = 0.9  # λmax · lr/2 below this is below the edge


def batches(run: Run, sizes: Any) -> Section:
    """Trains with each batch size, and looks late."""
    lr, steps, sizes_of_batches = sizes.batches
    found = {}
    for batch in sizes_of_batches:
        course = Course(lr, steps, max(steps // (3 * LOOKS), 1), batch=batch)
        job = partial(watched_seeds, course, sizes.seeds)
        found[batch] = run.arrays(f"batches/{batch}", (course, sizes.seeds), job)
    claims = [hovers(found, lr), flatter(found, lr)]
    return Section(text(found, lr, steps), claims, draw(found, lr))


def watched_seeds(course: Course, num: int) -> Arrays:
    """λmax and batch sharpness of all seeds, (seed, look)."""

    def of_batches(problem: hs.Problem) -> float:
        return hs.batch_sharpness(problem, course.batch, num_batches=16).value

    rows = ("lambda_max", of_batches)
    runs = [watched(course, seed, rows, ("lambda_max", "of_batches")) for seed in range(num)]
    return stacked(runs)


def late(part: Arrays, key: str) -> torch.Tensor:
    """The mean of the last looks, by seed."""
    return part[key][:, -LOOKS:].mean(1)


def arrived(found: dict[int, Arrays], lr: float) -> bool:
    """Whether λmax under the largest batches has come to its edge: else nothing holds it back."""
    return float((late(found[max(found)], "lambda_max") * lr / 2).median()) >= SMALL


def hovers(found: dict[int, Arrays], lr: float) -> Claim:
    """YES if late batch sharpness is within a quarter of 2/lr for each batch size, by medians.

    PARTLY if for half of the batch sizes; UNDECIDED where training is not at its edge.
    """
    ratios = {batch: late(part, "of_batches") * lr / 2 for batch, part in found.items()}
    near = [0.75 <= float(ratio.median()) <= 1.25 for ratio in ratios.values()]
    holds = YES if all(near) else PARTLY if 2 * sum(near) >= len(near) else NO
    holds = holds if arrived(found, lr) else UNDECIDED
    text = "SGD hovers where the curvature of batches along their own gradients is 2/lr"
    return _claim(text, "batch sharpness", ratios, holds)


def flatter(found: dict[int, Arrays], lr: float) -> Claim:
    """YES if late λmax grows with the batch, and is below SMALL of 2/lr for the smallest.

    The former by medians, the latter in each seed. PARTLY if one of the two; UNDECIDED where
    training is not at its edge.
    """
    ratios = {batch: late(part, "lambda_max") * lr / 2 for batch, part in found.items()}
    middles = [float(ratio.median()) for ratio in ratios.values()]
    grows = all(a < b for a, b in pairwise(middles))
    low = bool((next(iter(ratios.values())) < SMALL).all())
    holds = YES if grows and low else PARTLY if grows or low else NO
    holds = holds if arrived(found, lr) else UNDECIDED
    text = "λmax stays below 2/lr under SGD, the smaller the batch the further"
    return _claim(text, "λmax", ratios, holds)


def _claim(claim: str, what: str, ratios: dict[int, Tensor], holds: str) -> Claim:
    each = tuple(f"batches of {batch} {spread(ratio)}" for batch, ratio in ratios.items())
    tried = each if holds == NO else ()
    return Claim(
        claim, f"{what} over 2/lr, late: {'; '.join(each)}", holds, "landscapes/monitor", tried
    )


def text(found: dict[int, Arrays], lr: float, steps: int) -> str:
    """Both by batch size."""
    rows = [
        [
            str(batch),
            spread(late(part, "of_batches") * lr / 2),
            spread(late(part, "lambda_max") * lr / 2),
            spread(part["losses"][:, -100:].mean(1)),
        ]
        for batch, part in found.items()
    ]
    head = ["batch", "batch sharpness · lr/2", "λmax · lr/2", "loss of the last 100 batches"]
    return (
        f"The perceptron of the first part (tanh, squared error), SGD with lr {lr:g}, {steps:,} "
        "steps, on "
        "100 digits. Batch sharpness is E g'Hg / E g'g over batches, each with its own gradient "
        "and "
        f"Hessian (Andreyev and Beneventano 2024): `hs.batch_sharpness`. Means of the last {LOOKS} "
        "looks.\n\n"
        f"{table(head, rows)}"
    )


def draw(found: dict[int, Arrays], lr: float) -> Figure:
    """Both over the batch size."""
    figure, ax = plt.subplots(figsize=(6.5, 3.4))
    names = {"of_batches": ("batch sharpness", POSITIVE), "lambda_max": ("λmax", NEGATIVE)}
    for key, (name, color) in names.items():
        values = torch.stack([late(part, key) * lr / 2 for part in found.values()])
        ax.plot(list(found), values.median(1).values, "o-", color=color, ms=4, label=name)
        for row in values.T:
            ax.plot(list(found), row, ".", color=color, ms=3, alpha=0.5)
    ax.axhline(1, color=MARK, lw=1, ls="--", label="2/lr")
    ax.set(xscale="log", xlabel="batch size", ylabel="over 2/lr", ylim=(0, None))
    ax.set_xticks(list(found), [str(batch) for batch in found])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure

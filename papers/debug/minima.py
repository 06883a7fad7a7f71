"""Many minima of one small network, and what they are worth on data that they have not seen."""

from __future__ import annotations

from typing import Any

import torch
from common import data
from common.claims import NO, PARTLY, YES, Claim, number, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

import hesscope as hs

EQUAL, NEARLY = 0.02, 0.05  # of the test set, by which the middle nine tenths differ
COLORS = (ZERO, NEGATIVE, MARK, POSITIVE)
LR = {"clouds": 0.5, "digits": 0.3}


def measure(run: Run, sizes: Any) -> Section:
    """Trains many networks of each width on both data."""
    found = {
        task: {
            width: run.arrays(
                f"minima/{task}-{width}",
                (sizes.minima, task, width, LR),
                lambda task=task, width=width: ended(task, width, *sizes.minima[:2]),
            )
            for width in sizes.minima[2]
        }
        for task in LR
    }
    claims = [equivalent(task, parts) for task, parts in found.items()]
    return Section(text(found, sizes), [*claims, tells(found)], draw(found))


def split(task: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test data: three overlapping clouds, or digits of 7 x 7 pixels."""
    if task == "clouds":
        X, y = data.blobs(150, 0.9, classes=3, seed=0)
        return X, y, *data.blobs(2_000, 0.9, classes=3, seed=1)
    X, y = data.digits(examples=1_000, pool=4)
    X = (X - X.mean()) / X.std()
    return X[:200], y[:200], X[200:], y[200:]


def ended(task: str, width: int, num: int, steps: int) -> Arrays:
    """By network: losses and errors on both data, and the gradient over that of the start."""
    X, y, test_X, test_y = split(task)
    layers = (X.shape[1], width, int(y.max()) + 1)
    start = hs.ensemble.initialise(layers, num, seed=0, activation="tanh")
    first = hs.ensemble.gradients(start, X, y).norm(dim=1)
    trained = hs.ensemble.train(start, X, y, lr=LR[task], steps=steps)
    e = trained.ensemble
    return {
        "train_loss": trained.losses,
        "test_loss": hs.ensemble.losses(e, test_X, test_y),
        "error": torch.tensor([wrong(e.member(i), test_X, test_y) for i in range(num)]),
        "gradient": trained.gradient_norms / first,
    }


def wrong(model: torch.nn.Module, X: Tensor, y: Tensor) -> float:
    """The share of labels that are wrong."""
    with torch.no_grad():
        return float((model(X).argmax(1) != y).double().mean())


def width_of(values: Tensor) -> float:
    """Between the quantiles of 5 and 95 %."""
    low, high = values.double().quantile(torch.tensor([0.05, 0.95], dtype=torch.float64))
    return float(high - low)


def equivalent(task: str, parts: dict[int, Arrays]) -> Claim:
    """YES if the test errors of the middle nine tenths are within 2 points at each width.

    PARTLY if within 5 points; "only when" the network has so many units, if that is so from a
    width on; NO otherwise.
    """
    ranges = {width: width_of(part["error"]) for width, part in parts.items()}
    told = "; ".join(
        f"{width} units: error {100 * float(parts[width]['error'].median()):.1f} %, nine tenths "
        "within "
        f"{100 * r:.1f} points"
        for width, r in ranges.items()
    )
    return Claim(
        f"Minima of one network are about equally good on test data ({task})",
        told,
        by_width(ranges),
        "debugging/minima-equivalent",
        tuple(f"{width} hidden units" for width in parts) if by_width(ranges) == NO else (),
    )


def by_width(ranges: dict[int, float]) -> str:
    """The rule of `equivalent`."""
    if max(ranges.values()) <= EQUAL:
        return YES
    if max(ranges.values()) <= NEARLY:
        return PARTLY
    widths = sorted(ranges)
    for i, width in enumerate(widths):
        if all(ranges[w] <= NEARLY for w in widths[i:]):
            return f"only when the network has {width} hidden units or more"
    return NO


def tells(found: dict[str, dict[int, Arrays]]) -> Claim:
    """YES if rank correlations of training and test loss are below 0.3 in size in all cases.

    Then a lower minimum is no better one. PARTLY if in half of them.
    """
    rho = {
        f"{task}, {width}": rank_correlation(part["train_loss"], part["test_loss"])
        for task, parts in found.items()
        for width, part in parts.items()
    }
    small = sum(abs(r) < 0.3 for r in rho.values())
    holds = YES if small == len(rho) else PARTLY if 2 * small >= len(rho) else NO
    return Claim(
        "Which of its minima a network has found says little about test data",
        "rank correlation of training and test loss: "
        + "; ".join(f"{name} units {r:.2f}" for name, r in rho.items()),
        holds,
        "debugging/minima-equivalent",
        tuple(rho) if holds == NO else (),
    )


def rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's; ties do not occur among losses."""
    ranks = torch.stack([x.argsort().argsort(), y.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


def text(found: dict[str, dict[int, Arrays]], sizes: Any) -> str:
    """Ranges by width."""
    num, steps, _ = sizes.minima
    rows = [
        [
            f"{task}, {width}",
            spread(part["gradient"]),
            spread(part["train_loss"]),
            spread(part["test_loss"]),
            f"{100 * float(part['error'].median()):.1f} %",
            f"{100 * width_of(part['error']):.1f}",
        ]
        for task, parts in found.items()
        for width, part in parts.items()
    ]
    head = ["data, units", "gradient over the first", "training loss", "test loss", "test error",
            "points, nine tenths"]  # fmt: skip
    sizes_of_test = {task: len(split(task)[3]) for task in found}
    luck = ", ".join(
        f"{number(100 * (0.25 * 0.75 / n) ** 0.5)} ({task})" for task, n in sizes_of_test.items()
    )
    return (
        f"{num} networks of each width with one hidden layer (tanh), {steps:,} steps of descent on "
        "all data "
        "from starts of their own: 150 points of three overlapping clouds, tested on 2,000, and "
        "200 "
        "digits, tested on 800. How near to minima they come the gradient tells: two units on "
        "digits come to none. For scale: an "
        f"error of 25 % has a standard error of {luck} points by the luck of the test data, which "
        "is the same for all networks.\n\n"
        f"{table(head, rows)}"
    )


def draw(found: dict[str, dict[int, Arrays]]) -> Figure:
    """Test loss over training loss, a point for each network."""
    figure, axes = plt.subplots(1, len(found), figsize=(9.5, 3.6))
    for ax, (task, parts) in zip(axes, found.items(), strict=True):
        for (width, part), color in zip(parts.items(), COLORS, strict=False):
            ax.scatter(part["train_loss"], part["test_loss"], s=7, alpha=0.6,
                       color=color, linewidths=0, label=f"{width} hidden units")  # fmt: skip
        ax.set(xlabel="training loss", ylabel="test loss", title=task)
        ax.legend(frameon=False, fontsize=8, markerscale=2)
    figure.tight_layout()
    return figure

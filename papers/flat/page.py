"""The page, generated from the numbers: nothing on it is typed."""

from __future__ import annotations

import math
from typing import Any

import torch
from common.claims import interval, spread
from common.study import table as markdown
from torch import Tensor

from flat.figures import Table, beside_plain, late


def comparison(what: str, table: Table, targets: Any, plain: str) -> str:
    """What was done, a table per target, and what is told apart from nothing."""
    seeds = len(next(iter(table.values()))["loss"])
    parts = [f"{what} {seeds} seeds.\n"]
    for j, target in enumerate(targets):
        parts.append(_table(table, j, target, plain))
    parts.append(_order(table, targets, plain))
    return "\n".join(parts)


def _table(table: Table, j: int, target: float, plain: str) -> str:
    others = [name for name in ("accuracy", "shifted") if name in table[plain]]
    head = ["method", "reached", "loss", "gradients", "λmax", "of plain SGD's", "trace",
            "of plain SGD's"]  # fmt: skip
    for name in others:
        head += [name if name == "accuracy" else "shifted digits", "points over plain SGD"]
    rows = []
    beside = {c: beside_plain(table, c, plain) for c in ("lambda_max", "trace", *others)}
    for name, columns in table.items():
        here = {c: values[:, min(j, values.shape[1] - 1)] for c, values in columns.items()}
        cells = [name, f"{int(here['loss'].isfinite().sum())} of {len(here['loss'])}"]
        cells += [f"{interval(here['loss'])[0]:.3g}", f"{interval(here['gradients'])[0]:,.0f}"]
        for column in ("lambda_max", "trace"):
            own = "" if name == plain else ratio(beside[column][name][:, j])
            cells += [f"{interval(here[column])[0]:.3g}", own]
        for column in others:
            gain = "" if name == plain else points(beside[column][name][:, j])
            cells += [f"{100 * interval(here[column])[0]:.1f} %", gain]
        rows.append(cells)
    return f"\nAt a training loss of {target:g}:\n\n{markdown(head, rows)}"


def ratio(logarithms: Tensor) -> str:
    """Mean and 95 % interval of logarithms, as ratios."""
    mean, half = interval(logarithms)
    return f"{math.exp(mean):.2f} [{math.exp(mean - half):.2f}, {math.exp(mean + half):.2f}]"


def points(gains: Tensor) -> str:
    """Mean and 95 % interval of gains in points of accuracy."""
    mean, half = interval(gains)
    return f"{mean:+.1f} ± {half:.1f}"


def _order(table: Table, targets: Any, plain: str) -> str:
    """The order by λmax at the lowest loss that all have reached, and what accuracy says."""
    j = max((j for j in range(len(targets)) if all(bool(r["loss"][:, j].isfinite().all())
            for r in table.values())), default=0)  # fmt: skip
    means = {name: interval(rows["lambda_max"][:, j].log())[0] for name, rows in table.items()}
    order = sorted(means, key=lambda name: means[name])
    told, same = [], []
    for name, gains in beside_plain(table, "accuracy", plain).items():
        mean, half = interval(gains[:, j])
        if name != plain:
            (told if abs(mean) > half else same).append(f"{name} ({points(gains[:, j])})")
    flat = [
        name
        for name, logs in beside_plain(table, "lambda_max", plain).items()
        if name != plain and sum(interval(logs[:, j])) < 0
    ]
    return (
        f"\nBy λmax at a loss of {targets[j]:g}, flattest first: {'; '.join(order)}.\n\n"
        f"Surely flatter than plain SGD: {'; '.join(flat) or 'none'}.\n\n"
        "Test accuracy differs from that of plain SGD by more than its interval: "
        f"{'; '.join(told) or 'nowhere'}. It does not: {'; '.join(same) or 'nowhere'}.\n"
    )


def edge_section(runs: dict[float, list[dict[str, Tensor]]], lr: float, what: str) -> str:
    """λmax over the edges, late in training."""
    lines = [
        f"{what}\n",
        "| | λmax | over 2/lr | over its own edge |",
        "|---|---|---|---|",
    ]
    for rho, seeds in runs.items():
        found = torch.tensor([late(run) for run in seeds], dtype=torch.float64)
        name = f"SAM, ρ = {rho:g}" if rho else "gradient descent"
        top, own = interval(found[:, 1]), interval(found[:, 0])
        cells = [name, _error(*top), _error(top[0] * lr / 2, top[1] * lr / 2), _error(*own)]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append(
        "\nMedians over the second half of training, then mean and 95 % interval over "
        f"{len(next(iter(runs.values())))} seeds. The edge is ‖g‖/(2ρ) (√(1 + 8ρ/(lr ‖g‖)) - 1) "
        "(Long and Bartlett 2023), from the gradient at each look; that of descent is 2/lr.\n"
    )
    return "\n".join(lines)


def _error(mean: float, half: float) -> str:
    return f"{mean:.3f} ± {half:.3f}"


def correlations(found: dict[str, dict[str, tuple[float, float]]], loss: float) -> str:
    """Kendall's tau of each measure with both accuracies."""
    rows = [
        [name, *(f"{tau:+.2f} (p = {p:.2g})" for tau, p in both.values())]
        for name, both in found.items()
    ]
    return (
        f"Over all methods and seeds at a training loss of {loss:g}: Kendall's rank correlation of "
        "each measure of `hs.sharpness` with the accuracy on other digits, and on other digits "
        "shifted by a pixel. Negative: flatter goes with more right answers; p is the chance of as "
        f"much without any relation.\n\n{markdown(['measure', 'accuracy', 'shifted digits'], rows)}"
    )


def scaling(found: dict[str, Tensor]) -> str:
    """λmax and ASAM's sharpness of one function at several scales of its weights."""
    rows = [
        [
            f"{float(factor):g}",
            *(spread(found[name][i]) for name in ("lambda_max", "ASAM", "moved")),
        ]
        for i, factor in enumerate(found["factors"])
    ]
    head = ["factor", "λmax", "ASAM", "largest change of an output"]
    return (
        "A 49-32-10 ReLU perceptron, trained by gradient descent. The first layer is multiplied by "
        "a factor and the second divided by it, so the function stays (Dinh et al. 2017). Ranges "
        f"over {found['lambda_max'].shape[1]} seeds.\n\n{markdown(head, rows)}"
    )

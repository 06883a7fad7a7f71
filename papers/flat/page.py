"""The page, generated from the numbers: nothing on it is typed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from common.claims import interval
from common.keeping import write_text
from common.study import plain
from torch import Tensor

from flat.figures import Table, beside_plain, late

HEAD = """# Flat minima by six ways of training, at equal training loss

Does what is said to flatten minima do so where the loss is the same, and does test accuracy gain by
it? Each method trains the same networks from the same starts until the loss on all training data is
at most a target; there λmax and the trace of the Hessian are measured, and the accuracy on held-out
data. Ratios and differences are to plain SGD of the same seed, with 95 % intervals (Student's t)
over seeds; of twenty such intervals one misses the truth by luck. This page is written by

```bash
{command}
```

which resumes where it was stopped; [all numbers](flatness/results.json).
"""


def write(folder: Path, command: str, sections: list[str], numbers: dict[str, Any]) -> Path:
    """flatness.md and the numbers beside its figures."""
    write_text(folder / "flatness/results.json", json.dumps(plain(numbers), indent=1))
    page = folder / "flatness.md"
    write_text(page, "\n".join([HEAD.format(command=command), *sections]))
    return page


def comparison(title: str, what: str, picture: str, table: Table, targets: Any, plain: str) -> str:
    """A section: the figure, a table per target, and what is told apart from nothing."""
    seeds = len(next(iter(table.values()))["loss"])
    parts = [f"## {title}\n\n{what} {seeds} seeds.\n\n![{title}](flatness/{picture}.png)\n"]
    for j, target in enumerate(targets):
        parts.append(_table(table, j, target, plain))
    parts.append(_order(table, targets, plain))
    return "\n".join(parts)


def _table(table: Table, j: int, target: float, plain: str) -> str:
    lines = [
        f"\nAt a training loss of {target:g}:\n",
        "| method | reached | loss | gradients | λmax | of plain SGD's | trace | of plain SGD's "
        "| accuracy | points over plain SGD |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    beside = {c: beside_plain(table, c, plain) for c in ("lambda_max", "trace", "accuracy")}
    for name, rows in table.items():
        here = {column: values[:, j] for column, values in rows.items()}
        cells = [name, f"{int(here['loss'].isfinite().sum())} of {len(here['loss'])}"]
        cells += [f"{interval(here['loss'])[0]:.3g}", f"{interval(here['gradients'])[0]:,.0f}"]
        for column in ("lambda_max", "trace"):
            own = "" if name == plain else _ratio(beside[column][name][:, j])
            cells += [f"{interval(here[column])[0]:.3g}", own]
        gain = "" if name == plain else _pm(*interval(beside["accuracy"][name][:, j]))
        cells += [f"{100 * interval(here['accuracy'])[0]:.1f} %", gain]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(logarithms: Tensor) -> str:
    mean, half = interval(logarithms)
    return f"{math.exp(mean):.2f} [{math.exp(mean - half):.2f}, {math.exp(mean + half):.2f}]"


def _pm(mean: float, half: float) -> str:
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
            (told if abs(mean) > half else same).append(f"{name} ({_pm(mean, half)})")
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
        f"## The edge of SAM\n\n{what}\n\n![edges](flatness/edge.png)\n",
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

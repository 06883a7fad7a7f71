"""Figure 10: the loss on the line between two training runs, all along training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from common.keeping import Arrays
from common.style import NEGATIVE, POSITIVE
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

import hesscope as hs
from sagun import claims, networks
from sagun.context import Context
from sagun.settings import Lines

TITLE = "The line between gradient descent and SGD"
KINDS = {
    "same": "one start: GD and SGD",
    "different": "two starts: GD and SGD",
    "shuffled": "two starts: SGD and SGD, other shuffling",
}
ENDS = {"same": ("gd", "sgd"), "different": ("gd", "other"), "shuffled": ("sgd", "other")}


def measure(c: Context) -> dict[str, Any]:
    """Runs, and the lines between them at the recorded steps, for all seeds."""
    s = c.settings.lines
    key = (c.data, s, c.settings.digits.sigma)
    runs = c.run.arrays("lines/runs", key, lambda: _runs(c, s))
    found = {
        kind: c.run.arrays(f"lines/{kind}", key, lambda kind=kind: _lines(c, s, runs, kind))
        for kind in KINDS
    }
    paths = {kind: [_path(c, s, runs, kind, 0, r) for r in range(len(s.record))] for kind in KINDS}
    return {"found": found, "paths": paths, "settings": s}


def _runs(c: Context, s: Lines) -> Arrays:
    """θ (seeds, record, n) of gradient descent, SGD from there, and SGD from elsewhere."""
    layers, sigma = c.layers(s.width), c.settings.digits.sigma
    start = networks.starts(layers, s.seeds, sigma, seed=0)
    other = networks.starts(layers, s.seeds, sigma, seed=1)
    t = hs.ensemble.train(start, c.X, c.y, lr=s.lr, steps=max(s.record), record=s.record)
    return {
        "gd": torch.stack([t.snapshots[step].theta for step in s.record], 1),
        "sgd": _sgd(start, c.X, c.y, s, seed=0),
        "other": _sgd(other, c.X, c.y, s, seed=1),
    }


def _sgd(e: hs.ensemble.Ensemble, X: Tensor, y: Tensor, s: Lines, seed: int) -> Tensor:
    """SGD, every network with its own shuffling of the data in every epoch."""
    generator = torch.Generator().manual_seed(seed)
    kept, order = [], torch.empty(len(e), 0, dtype=torch.long)
    for step in range(max(s.record) + 1):
        if step in s.record:
            kept.append(e.theta)
        if order.shape[1] < s.batch:
            order = torch.rand(len(e), len(X), generator=generator).argsort(1)
        batch, order = order[:, : s.batch], order[:, s.batch :]
        g = hs.ensemble.gradients(e, X[batch], y[batch])
        e = replace(e, theta=e.theta - s.lr * g)
    return torch.stack(kept, 1)


def _path(c: Context, s: Lines, runs: Arrays, kind: str, seed: int, r: int) -> hs.LossLine:
    """The line between two runs of one seed after one number of steps."""
    a, b = ENDS[kind]
    e = hs.ensemble.Ensemble(c.layers(s.width), "relu", runs[a][[seed], r])
    problem = networks.problem(e, 0, c.X, c.y)
    return hs.interpolate(problem, runs[a][seed, r], runs[b][seed, r], s.points)


def _lines(c: Context, s: Lines, runs: Arrays, kind: str) -> Arrays:
    paths = [
        [_path(c, s, runs, kind, seed, r) for r in range(len(s.record))] for seed in range(s.seeds)
    ]
    return {
        "losses": torch.stack([torch.stack([p.losses for p in row]) for row in paths]),
        "barriers": torch.tensor([[p.barrier for p in row] for row in paths]),
        "distances": torch.tensor([[p.distance for p in row] for row in paths]),
    }


def draw(m: dict[str, Any]) -> Figure:
    """Above the lines of one seed; below the picture of the paper, with the distance as depth."""
    figure = Figure(figsize=(15, 9), layout="constrained")
    grid = figure.add_gridspec(2, len(KINDS), height_ratios=[1, 1.15])
    labels = [f"step {step}" for step in m["settings"].record]
    for i, (kind, title) in enumerate(KINDS.items()):
        ax = figure.add_subplot(grid[0, i])
        hs.plots.interpolation(m["paths"][kind], labels=labels, ax=ax)
        rows = -(-len(labels) // 2)
        ax.set_title(title, fontsize=11, pad=28 + 13 * rows)  # above the legend
        _depth(figure.add_subplot(grid[1, i], projection="3d"), m["paths"][kind])
    return figure


def _depth(ax: Any, paths: list[hs.LossLine]) -> None:
    """Loss over t, one line behind the other by the distance between the runs."""
    distances = [path.distance for path in paths]
    for path in paths:
        ax.plot(path.points, [path.distance] * len(path), path.losses, color=POSITIVE, lw=1.1)
    for end in (0, -1):
        losses = [float(path.losses[end]) for path in paths]
        ax.plot([-end * 1.0] * len(paths), distances, losses, color=NEGATIVE, lw=1.6)
    ax.set_xlabel("t")
    ax.set_ylabel("distance between the runs", labelpad=10)
    ax.set_zlabel("loss", labelpad=10)
    ax.tick_params(labelsize=8)
    ax.set_xticks([0, 0.5, 1])
    for axis in (ax.yaxis, ax.zaxis):
        axis.set_major_locator(MaxNLocator(4))
    ax.view_init(28, -62)
    ax.set_box_aspect((1, 1.3, 0.9), zoom=0.85)


def caption(m: dict[str, Any]) -> str:
    """Conditions, distances, barriers."""
    s = m["settings"]
    parts = [
        f"{title}: distance {claims.spread(m['found'][kind]['distances'][:, -1])} at the end"
        for kind, title in KINDS.items()
    ]
    return (
        f"784-{s.width}-{s.width}-10 on digits, lr = {s.lr:g}, batches of {s.batch}, one seed of "
        f"{s.seeds}; red: the two training runs. {'; '.join(parts)}."
    )


def check(m: dict[str, Any]) -> list[claims.Claim]:
    """Flat from one start; decreasing from two."""
    same, *others = (m["found"][kind] for kind in KINDS)
    middle = same["losses"].shape[2] // 2
    return [
        claims.line_is_flat(same["barriers"], same["losses"][:, 0, 0]),
        *(
            claims.line_decreases(f["losses"][:, :, middle], f["barriers"], what)
            for f, what in zip(others, ("GD and SGD", "SGD and SGD"), strict=True)
        ),
    ]

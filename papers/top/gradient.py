"""Does the gradient lie in the top subspace, and does that stay where it is (Gur-Ari 2018)?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from common.claims import Claim, spread, verdict
from common.data import digest
from common.keeping import Arrays, Run
from common.seeds import over, scalar
from common.study import Section, table
from common.style import NEGATIVE, POSITIVE
from land import networks
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from top.levels import CLASSES, kinds
from top.sizes import Sizes

BATCHES = {"batches of 50": 50, "full batch": 10**6}


def measure(run: Run, s: Sizes) -> Section:
    """The share of the gradient's square in the top ten directions along training."""
    pair = networks.images(s.examples)
    found = {
        (name, how): over(run, f"gradient/{name}/{size}", (s.looks, digest(*pair)),
                          range(s.seeds), partial(_course, make, size, pair, s))
        for name, make in kinds(s).items() for how, size in BATCHES.items()
    }  # fmt: skip
    numbers = {f"{name}, {how}": f for (name, how), f in found.items()}
    return Section(_text(found, s), claims(found, s), _draw(found, s), numbers)


def _course(
    make: Callable[[], nn.Module], size: int, pair: networks.Pair, s: Sizes, seed: int
) -> Arrays:
    X, y = pair
    model = networks.made(make, seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    generator = torch.Generator().manual_seed(seed)
    looks, before = [], None
    for step in range(max(s.looks) + 1):
        if step in s.looks:
            found, before = _look(hs.Problem(model, F.cross_entropy, pair), before)
            looks.append(found)
        some = torch.randperm(len(y), generator=generator)[:size]
        optimizer.zero_grad()
        F.cross_entropy(model(X[some]), y[some]).backward()
        optimizer.step()
    return {key: torch.stack([look[key] for look in looks]) for key in looks[0]}


def _look(problem: hs.Problem, before: Tensor | None) -> tuple[Arrays, Tensor]:
    k = min(CLASSES, problem.n // 3)
    Q = hs.eigsh(hs.Hessian(problem), k, verify=False, seed=0).eigenvectors[:, :k]
    g = problem.gradient()
    stays = (Q.T @ before).square().sum() / k if before is not None else scalar(float("nan"))
    return {
        "share": (Q.T @ g).square().sum() / g.square().sum(), "stays": stays,
        "chance": scalar(k / problem.n), "loss": scalar(problem.loss()),
    }, Q  # fmt: skip


def claims(found: dict[tuple[str, str], Arrays], s: Sizes) -> Sequence[Claim]:
    """From the third look on: at least half of the square; and subspaces that overlap by half."""
    rows = []
    for key, text, what in (
        ("share", "Most of the gradient lies in the ten top directions soon after the start",
         "share of its square"),
        ("stays", "The top subspace stays roughly where it is",
         "overlap with that of the look before"),
    ):  # fmt: skip
        by = {" ".join(name): f[key][:, 2:] for name, f in found.items()}
        every = torch.cat([v.flatten() for v in by.values()])
        hits = (every >= 0.5).double().mean()
        tried = tuple(f"{name} {spread(v)}" for name, v in by.items())
        rows.append(
            Claim(
                text, f"{what} {spread(every)}, at least half in {hits:.0%} of looks from step "
                f"{s.looks[2]} on; at the start {spread(_first(found, key))}, by chance "
                f"{spread(torch.cat([f['chance'][:, 0] for f in found.values()]))}",
                verdict(bool(hits >= 0.9), bool(hits > 0.5)), "sagun/top-directions",
                tried if not hits > 0.5 else (),
            )
        )  # fmt: skip
    return rows


def _first(found: dict[tuple[str, str], Arrays], key: str) -> Tensor:
    return torch.cat([f[key][:, 0 if key == "share" else 1] for f in found.values()])


def _text(found: dict[tuple[str, str], Arrays], s: Sizes) -> str:
    rows = [
        [*name, *(spread(f["share"][:, i]) for i in range(len(s.looks)))]
        for name, f in found.items()
    ]
    head = ["network", "training", *(f"step {step}" for step in s.looks)]
    return (
        f"The gradient of all {s.examples} digits, its square's share in the ten largest "
        f"eigenvectors of the Hessian; rate 0.2, {s.seeds} seeds.\n\n" + table(head, rows)
    )


def _draw(found: dict[tuple[str, str], Arrays], s: Sizes) -> Figure:
    figure = Figure(figsize=(9.5, 3.3), layout="constrained")
    names = list(dict.fromkeys(name for name, _ in found))
    steps = [max(step, 1) for step in s.looks]
    for ax, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        for how, colour in zip(BATCHES, (POSITIVE, NEGATIVE), strict=True):
            ax.plot(steps, found[name, how]["share"].T, color=colour, lw=0.8, alpha=0.5)
            ax.plot(steps, found[name, how]["share"].median(0).values, "o-", color=colour,
                    label=how)  # fmt: skip
        ax.set(xscale="log", ylim=(0, 1), xlabel="step (the start at 1)", title=name)
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("share of |gradient|² in the top ten")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure

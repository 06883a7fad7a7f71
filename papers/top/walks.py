"""Walks in the top directions only, and in all others (Song, Ahn and Yun 2024); rates apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from common.claims import Claim, interval, number, spread, verdict
from common.data import digest
from common.keeping import Arrays, Run
from common.seeds import over, scalar
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from land import networks
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from top.levels import CLASSES, kinds
from top.sizes import Sizes

RATE = 0.2
STALLS, TRAINS = 0.1, 0.9  # of what plain SGD gains
WALKS = {"plain": (1.0, 1.0), "top only": (1.0, 0.0), "bulk only": (0.0, 1.0),
         "flat only": (0.0, 1.0)}  # factors of the top and of the rest  # fmt: skip
COLOURS = (ZERO, NEGATIVE, POSITIVE, MARK)
DAMPED = 0.1  # factor of the top directions, where rates are apart


def measure(run: Run, s: Sizes) -> Section:
    """The same network goes on in four ways."""
    pair = networks.images(s.examples)
    key = (s.steps, s.walk, s.every, s.flat, digest(*pair))
    found = {
        (name, size): over(run, f"walks/{name}/{size}", key, range(s.seeds),
                           partial(_walks, make, size, pair, s))
        for name, make in list(kinds(s).items())[1:] for size in (20, 10**6)
    }  # fmt: skip
    numbers = {f"{name}, {_batch(size)}": _gains(f) for (name, size), f in found.items()}
    return Section(_text(found, s), claims(found), _draw(found, s), numbers)


def _batch(size: int) -> str:
    return f"batches of {size}" if size < 10**6 else "full batch"


def _walks(
    make: Callable[[], nn.Module], size: int, pair: networks.Pair, s: Sizes, seed: int
) -> Arrays:
    model = networks.made(make, seed)
    for _ in _steps(model, torch.optim.SGD(model.parameters(), RATE), pair, s.steps // 4, size, 0):
        pass
    theta = networks.flat(model)
    return {
        name: _walk(networks.placed(model, theta.clone()), name, pair, s, size, seed)
        for name in WALKS
    }


def _walk(
    model: nn.Module, name: str, pair: networks.Pair, s: Sizes, size: int, seed: int
) -> Tensor:
    """The loss of all data, every so often."""
    problem = hs.Problem(model, F.cross_entropy, pair)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), RATE)
    if name != "plain":
        top, bulk = WALKS[name]
        k = min(s.flat if name == "flat only" else CLASSES, problem.n // 3)
        every = s.every if name != "flat only" else 2 * s.every
        optimizer = hs.optim.SubspaceSGD(optimizer, problem, k, top=top, bulk=bulk, every=every)
    return torch.tensor(
        [problem.loss(), *_steps(model, optimizer, pair, s.walk, size, seed + 1)],
        dtype=torch.float64,
    )


def _steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, pair: networks.Pair, steps: int,
    size: int, seed: int,
) -> list[float]:  # fmt: skip
    """Steps, and the loss of all data after every tenth of them."""
    X, y = pair
    generator, losses = torch.Generator().manual_seed(seed), []
    for step in range(1, steps + 1):
        some = torch.randperm(len(y), generator=generator)[:size]
        optimizer.zero_grad()
        F.cross_entropy(model(X[some]), y[some]).backward()
        optimizer.step()
        if step % max(steps // 10, 1) == 0:
            with torch.no_grad():
                losses.append(float(F.cross_entropy(model(X), y)))
    return losses[:10]


def _gains(f: Arrays) -> Arrays:
    """What a walk gains, as a share of what plain SGD gains."""
    plain = f["plain"][:, 0] - f["plain"][:, -1]
    return {name: (f[name][:, 0] - f[name][:, -1]) / plain for name in f if name != "plain"}


def claims(found: dict[tuple[str, int], Arrays]) -> Sequence[Claim]:
    """Stalling: at most STALLS of plain SGD's gain in all runs; training: at least TRAINS."""
    by = {f"{name}, {_batch(size)}": _gains(f) for (name, size), f in found.items()}
    return (
        _claim("Steps in the top directions only stall", "top only", by, "sagun/top-directions",
               lambda v: v <= STALLS),
        _claim("Steps in all directions but the top ones train as well", "bulk only", by,
               "sagun/zero-directions", lambda v: v >= TRAINS),
        _claim("So do steps in the flat directions only, with three times as many taken out",
               "flat only", by, "sagun/zero-directions", lambda v: v >= TRAINS),
    )  # fmt: skip


def _claim(
    text: str, walk: str, by: dict[str, Arrays], statement: str, rule: Callable[[Tensor], Tensor]
) -> Claim:
    every = torch.cat([f[walk] for f in by.values()])
    hits = rule(every).double().mean()
    tried = tuple(f"{name} {spread(f[walk])}" for name, f in by.items())
    return Claim(
        text, f"gain over plain SGD's: {'; '.join(tried)}; so in {hits:.0%} of runs",
        verdict(bool(hits == 1), bool(hits > 0.5)), statement, tried if not hits > 0.5 else (),
    )  # fmt: skip


def _text(found: dict[tuple[str, int], Arrays], s: Sizes) -> str:
    rows = [
        [
            name, _batch(size), spread(f["plain"][:, 0]), spread(f["plain"][:, -1]),
            *(spread(gain) for gain in _gains(f).values()),
        ]
        for (name, size), f in found.items()
    ]  # fmt: skip
    head = ["network", "training", "loss at the switch", "plain SGD's at the end",
            *(f"{name}: gain" for name in WALKS if name != "plain")]  # fmt: skip
    return (
        f"Plain SGD of rate {RATE} for {s.steps // 4} steps; from there {s.walk} more with the "
        "gradient as it is, its part in the ten largest eigenvectors only, the rest only, and what "
        f"is left without the {s.flat} largest (`hs.optim.SubspaceSGD`, searched anew every "
        f"{s.every} steps, {2 * s.every} for the last). Gains of the loss as shares of plain "
        f"SGD's, {s.seeds} seeds.\n\n" + table(head, rows)
    )


def _draw(found: dict[tuple[str, int], Arrays], s: Sizes) -> Figure:
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    names = list(dict.fromkeys(name for name, _ in found))
    sizes = list(dict.fromkeys(size for _, size in found))
    axes = figure.subplots(2, len(names), sharex=True, squeeze=False)
    for (name, size), f in found.items():
        ax = axes[sizes.index(size)][names.index(name)]
        for colour, (walk, losses) in zip(COLOURS, f.items(), strict=True):
            steps = torch.linspace(0, s.walk, losses.shape[1])
            ax.plot(steps, losses.T, color=colour, lw=0.7, alpha=0.4)
            ax.plot(steps, losses.median(0).values, color=colour, lw=1.8, label=walk)
        ax.set_title(f"{name}, {_batch(size)}", fontsize=9.5)
        ax.set_yscale("log")
        ax.spines[["top", "right"]].set_visible(False)
    axes[1][0].set(xlabel="steps after the switch", ylabel="training loss")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def rates(run: Run, s: Sizes) -> Section:
    """Plain gradient descent against one with the top directions damped, each at its best rate."""
    pair = networks.images(s.examples)
    key = (s.walk, s.every, s.rates, digest(*pair))
    found = {
        name: over(run, f"rates/{name}", key, range(s.seeds), partial(_best, make, pair, s))
        for name, make in kinds(s).items()
    }
    return Section(_rates_text(found, s), [_faster(found)], _rates_draw(found, s), dict(found))


def _best(make: Callable[[], nn.Module], pair: networks.Pair, s: Sizes, seed: int) -> Arrays:
    """Final losses of both at every rate, and the products that the damped one took."""
    plain, damped, cost = [], [], 0.0
    for rate in s.rates:
        model = networks.made(make, seed)
        sgd = torch.optim.SGD(model.parameters(), rate)
        plain.append(_steps(model, sgd, pair, s.walk, 10**6, seed)[-1])
        model = networks.made(make, seed)
        problem = hs.Problem(model, F.cross_entropy, pair)
        apart = hs.optim.SubspaceSGD(
            torch.optim.SGD(model.parameters(), rate), problem, min(CLASSES, problem.n // 3),
            top=DAMPED, bulk=1.0, every=s.every,
        )  # fmt: skip
        damped.append(_steps(model, apart, pair, s.walk, 10**6, seed)[-1])
        cost = max(cost, 2.0 * apart.num_matvecs)
    return {"plain": torch.tensor(plain), "damped": torch.tensor(damped), "cost": scalar(cost)}


def best(losses: Tensor) -> Tensor:
    """The lowest loss over the rates; what is not finite counts as infinite."""
    return torch.where(losses.isfinite(), losses, torch.inf).amin(1)


def _faster(found: dict[str, Arrays]) -> Claim:
    """Lower after as many steps, surely, in all networks; in part: in one of them."""
    logs = {name: (best(f["damped"]) / best(f["plain"])).log() for name, f in found.items()}
    said, good = [], []
    for name, v in logs.items():
        mean, half = interval(v)
        good.append(mean + half < 0)
        said.append(f"{name} {spread(v.exp())}")
    cost = torch.cat([f["cost"] for f in found.values()])
    return Claim(
        "A smaller rate in the top directions, and so a larger one in all others, trains faster",
        f"loss after as many steps over plain gradient descent's, each at its best rate: "
        f"{'; '.join(said)}; but the search for the directions costs up to "
        f"{number(float(cost.max()))} gradients",
        verdict(all(good), any(good)), "sagun/top-directions", tuple(said) if not any(good) else (),
    )  # fmt: skip


def _rates_text(found: dict[str, Arrays], s: Sizes) -> str:
    rows = [
        [name, how, *(spread(f[how][:, i]) for i in range(len(s.rates)))]
        for name, f in found.items() for how in ("plain", "damped")
    ]  # fmt: skip
    head = ["network", "method", *(f"rate {rate:g}" for rate in s.rates)]
    return (
        f"Full-batch loss after {s.walk} steps from the start. *Damped*: {DAMPED} of the rate in "
        f"the ten largest eigenvectors, searched anew every {s.every} steps; {s.seeds} "
        "seeds.\n\n" + table(head, rows)
    )


def _rates_draw(found: dict[str, Arrays], s: Sizes) -> Figure:
    figure = Figure(figsize=(9.5, 3.2), layout="constrained")
    for ax, (name, f) in zip(figure.subplots(1, len(found), sharey=True), found.items(),
                             strict=True):  # fmt: skip
        for how, colour in (("plain", ZERO), ("damped", POSITIVE)):
            ax.plot(s.rates, f[how].T, color=colour, lw=0.7, alpha=0.4)
            ax.plot(s.rates, f[how].median(0).values, "o-", color=colour, label=how)
        ax.set(xscale="log", yscale="log", xlabel="rate", title=name)
        ax.set_xticks(s.rates, [f"{rate:g}" for rate in s.rates])
        ax.set_xticks([], minor=True)
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel(f"loss after {s.walk} steps")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure

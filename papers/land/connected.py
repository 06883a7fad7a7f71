"""Are the minima of different seeds and batch sizes connected, by a line or by a curve?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from common.claims import Claim, number, spread, verdict
from common.data import digest
from common.keeping import Arrays, Run
from common.seeds import over, scalar
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from land import networks
from land.bulk import FLAT
from land.networks import Recipe
from land.sizes import Sizes

LOW = 0.01  # of the loss at the start: a barrier below it does not separate
PAIRS = ("seeds", "batches")


def measure(run: Run, s: Sizes) -> Section:
    """Lines and curves between pairs of trained networks."""
    kinds = _kinds(s)
    train, test = networks.images(s.examples), networks.images(s.tested, s.examples)
    key = (s.brief, s.short, 0.9, s.bending, digest(*train))
    found = {
        (name, pair): over(run, f"connected/{name}/{pair}", key, range(s.seeds),
                           partial(_path, make, pair, train, test, s))
        for name, make in kinds.items() for pair in PAIRS
    }  # fmt: skip
    numbers = {
        f"{name}, {pair}": {key: v for key, v in f.items() if v.ndim == 1}
        for (name, pair), f in found.items()
    }
    return Section(_text(found, s), claims(found), _draw(found), numbers)


def _kinds(s: Sizes) -> dict[str, Callable[[], nn.Module]]:
    made: dict[str, Callable[[], nn.Module]] = {
        f"49-{k}-10": partial(networks.perceptron, 49, k, 10) for k in s.widths
    }
    return {**made, "CNN": partial(networks.convolutions, 10, *s.channels)}


def _path(
    make: Callable[[], nn.Module], pair: str, train: networks.Pair, test: networks.Pair, s: Sizes,
    seed: int,
) -> Arrays:  # fmt: skip
    """Two starts and the same batches' size; or one start, batches of 10 and of all."""
    steps = s.brief if isinstance(networks.made(make, 0)[0], nn.Linear) else s.short
    small, whole = Recipe(0.02, steps, 10), Recipe(0.1, steps, len(train[1]))
    recipes = (Recipe(0.05, steps),) * 2 if pair == "seeds" else (small, whole)
    starts = (2 * seed, 2 * seed + 1) if pair == "seeds" else (seed, seed)
    models = [networks.made(make, i) for i in starts]
    start = float(F.cross_entropy(models[0](train[0]), train[1]).detach())
    for i, (model, recipe) in enumerate(zip(models, recipes, strict=True)):
        networks.trained(model, F.cross_entropy, train, recipe, 2 * seed + i)
    problem = hs.Problem(models[0], F.cross_entropy, train)
    a, b = (networks.flat(model) for model in models)
    path = hs.loss_path(
        problem, a, b, num_steps=s.bending, num_bends=2, lr=0.02, num_points=21, match=True,
        test=test, seed=seed,
    )  # fmt: skip
    line, curve = path.line, path.curve
    assert line.test_losses is not None
    assert curve.test_losses is not None
    return {
        "line": scalar(line.barrier / start), "curve": scalar(curve.barrier / start),
        "matched": scalar((path.matched or line).barrier / start), "start": scalar(start),
        "ends": line.losses[[0, -1]].max(), "test": _rise(curve.test_losses),
        "test_line": _rise(line.test_losses), "losses": line.losses,
        "curved": curve.losses, "apart": scalar(line.distance), **_direction(problem, a, b),
    }  # fmt: skip


def _rise(losses: Tensor) -> Tensor:
    """The highest loss on the way over the higher of the ends, relative to that."""
    return losses.max() / losses[[0, -1]].max() - 1


def _direction(problem: hs.Problem, a: Tensor, b: Tensor) -> Arrays:
    """How flat the way from a to b is where it begins: the share of it in the flat directions."""
    there = problem.at(a)
    H = hs.Hessian(there).to_dense()
    values, vectors = torch.linalg.eigh((H + H.T) / 2)
    inside = vectors.T @ ((b - a) / (b - a).norm())
    flat = values.abs() <= FLAT * values.abs().max()
    return {"flat": inside[flat].square().sum(), "dimension": flat.double().mean()}


def claims(found: dict[tuple[str, str], Arrays]) -> Sequence[Claim]:
    """A barrier of at most LOW of the loss at the start connects; in all pairs, or in most."""
    rows = []
    for pair, words in (("seeds", "different seeds"), ("batches", "different batch sizes")):
        for way, said in (("line", "a straight line"), ("curve", "a curve")):
            keys = "landscapes/connected" + (",sagun/low-energy-paths" if way == "curve" else "")
            by = {name: f[way] for (name, p), f in found.items() if p == pair}
            rows.append(_connected(f"Minima of {words} are connected by {said}", by, keys))
    rows.append(_tested(found))
    rows.append(_flat(found))
    return rows


def _connected(text: str, by: dict[str, Tensor], statement: str) -> Claim:
    everything = torch.cat(list(by.values()))
    low = (everything <= LOW).double().mean()
    whole = [name for name, v in by.items() if bool((v <= LOW).all())]
    holds = verdict(bool(low == 1), bool(low > 0.5))
    if holds != "yes" and whole:
        holds = f"only when the network is {' or '.join(whole)}"
    attempts = tuple(f"{name} {spread(v)}" for name, v in by.items())
    measured = (
        f"barrier over the loss at the start, at most {LOW:g} in {int((everything <= LOW).sum())} "
        f"of {len(everything)} pairs: {'; '.join(attempts)}"
    )
    return Claim(text, measured, holds, statement, attempts if holds == "no" else ())


def _tested(found: dict[tuple[str, str], Arrays]) -> Claim:
    """The test loss rises by at most a tenth over the worse end."""
    rise = torch.cat([f["test"] for f in found.values()])
    straight = torch.cat([f["test_line"] for f in found.values()])
    share = float((rise <= 0.1).double().mean())
    attempts = tuple(f"{' '.join(key)} {spread(f['test'])}" for key, f in found.items())
    return Claim(
        "On the curve the test loss stays as low as at its ends",
        f"it rises over the worse end by {spread(rise)} of that (straight: {spread(straight)}); by "
        f"at most a tenth in {share:.0%} of {len(rise)} pairs",
        verdict(share == 1, share > 0.5), "sagun/low-energy-paths",
        attempts if share <= 0.5 else (),
    )  # fmt: skip


def _flat(found: dict[tuple[str, str], Arrays]) -> Claim:
    """More of the way lies in the flat directions than they have of all dimensions: no chance."""
    inside = torch.cat([f["flat"] for f in found.values()])
    dimension = torch.cat([f["dimension"] for f in found.values()])
    more = float((inside > dimension).double().mean())
    mostly = float((inside >= 0.9).double().mean())
    attempts = tuple(
        f"{' '.join(key)} {spread(f['flat'])} of the way, {spread(f['dimension'])} of dimensions"
        for key, f in found.items()
    )
    return Claim(
        "The way from one minimum to the other leads through flat dimensions",
        f"{spread(inside)} of its squared length lies in directions within {FLAT:g} of λmax, which "
        f"are {spread(dimension)} of all; more than by chance in {more:.0%} of pairs, nine tenths "
        f"in {mostly:.0%}",
        verdict(mostly == 1 and more == 1, more > 0.5), "landscapes/connected",
        attempts if more <= 0.5 else (),
    )  # fmt: skip


def _text(found: dict[tuple[str, str], Arrays], s: Sizes) -> str:
    rows = [
        [
            name, pair, number(float(f["ends"].median())), spread(f["apart"]), spread(f["line"]),
            spread(f["matched"]), spread(f["curve"]), spread(f["test"]),
        ]
        for (name, pair), f in found.items()
    ]  # fmt: skip
    head = ["network", "differ in", "loss at the ends", "‖θb - θa‖", "straight line",
            "line, units matched", "curve", "rise of test loss on the curve"]  # fmt: skip
    return (
        f"{s.seeds} pairs each, {s.examples} digits of 7 x 7. *Seeds*: two starts, batches of 50. "
        f"*Batches*: one start, batches of 10 against all examples at once, as many steps. The "
        f"curve is a Bézier curve with two bends, trained in {s.bending} steps (`hs.loss_path`, to "
        "the second network with its units matched); barriers over the chord, relative to the loss "
        f"at the start; {s.tested} other digits for the test loss. A curve without a barrier "
        "proves a connection; one with a barrier proves nothing.\n\n" + table(head, rows)
    )


def _draw(found: dict[tuple[str, str], Arrays]) -> Figure:
    names = list(dict.fromkeys(name for name, _ in found))
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(2, len(names), sharex=True, sharey=True, squeeze=False)
    t = torch.linspace(0, 1, next(iter(found.values()))["losses"].shape[1])
    for (name, pair), f in found.items():
        ax = axes[PAIRS.index(pair)][names.index(name)]
        ax.plot(t, (f["losses"] / f["start"][:, None]).T, color=NEGATIVE, lw=1, alpha=0.7)
        ax.plot(t, (f["curved"] / f["start"][:, None]).T, color=POSITIVE, lw=1, alpha=0.9)
        ax.axhline(1, color=MARK, lw=0.8, ls=":")
        ax.set_title(f"{name}, {pair}", fontsize=9.5)
        ax.set_yscale("log")
        ax.spines[["top", "right"]].set_visible(False)
    axes[1][0].set_ylabel("loss / loss at the start")
    axes[0][0].plot([], [], color=NEGATIVE, label="straight line")
    axes[0][0].plot([], [], color=POSITIVE, label="curve")
    axes[0][0].plot([], [], color=MARK, ls=":", label="loss at the start")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure

"""The number of outliers against the number of classes, and what changing the classes does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from common.claims import Claim, interval, number, spread, verdict
from common.data import digest
from common.keeping import Arrays, Run
from common.seeds import over, scalar
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib.figure import Figure
from torch import nn

import hesscope as hs
from land import networks
from land.networks import Recipe
from land.sizes import Sizes

KINDS = ("perceptron", "CNN", "transformer")


def counted(model: nn.Module, pair: networks.Pair, classes: int, loss: nn.Module) -> Arrays:
    """The gap's count, the eigenvectors within the class means, and the largest eigenvalues."""
    problem = hs.Problem(model, loss, pair)
    k = min(3 * classes + 6, problem.n // 3)
    pairs = hs.eigsh(hs.Hessian(problem), k, verify=False, seed=0)
    parts = hs.class_decomposition(problem, pairs)
    found = hs.outliers(pairs, classes, classes=parts)
    assert parts.overlap is not None
    return {
        "gap": scalar(found.count), "aligned": scalar(found.class_count or 0),
        "clear": scalar(float(found.clear)), "top": pairs.eigenvalues[0],
        "loss": scalar(problem.loss()),
    }  # fmt: skip


def measure(run: Run, s: Sizes) -> Section:
    """Perceptron, CNN and transformer on tasks of 2 to 10 classes."""
    found = {
        (kind, C): over(run, f"classes/{kind}/{C}", (s.short, 0.9, s.examples, s.windows),
                        range(s.seeds), partial(_one, kind, C, s))
        for kind in KINDS for C in s.classes
    }  # fmt: skip
    numbers = {f"{kind}, {C} classes": f for (kind, C), f in found.items()}
    return Section(_text(found, s), claims(found), _draw(found, s), numbers)


def _one(kind: str, C: int, s: Sizes, seed: int) -> Arrays:
    if kind == "transformer":
        model = networks.made(partial(networks.Transformer, 28, C, s.d), seed)
        pair, recipe = networks.text(s.windows, C), Recipe(0.1, s.short)
    else:
        X, y = networks.images(1000)
        pair = X[y < C][: s.examples], y[y < C][: s.examples]
        make = (
            partial(networks.perceptron, 49, s.hidden, C) if kind == "perceptron"
            else partial(networks.convolutions, C, *s.channels)
        )  # fmt: skip
        model, recipe = networks.made(make, seed), Recipe(0.05, s.short)
    loss = nn.CrossEntropyLoss()
    return counted(networks.trained(model, loss, pair, recipe, seed), pair, C, loss)


def slope(found: dict[tuple[str, int], Arrays], kind: str, what: str) -> float:
    """Of a count against the number of classes, by least squares over all seeds."""
    C = torch.cat([torch.full_like(f[what], c) for (k, c), f in found.items() if k == kind])
    counts = torch.cat([f[what] for (k, _), f in found.items() if k == kind])
    centred = C - C.mean()
    return float(centred @ counts / centred.square().sum())


def claims(found: dict[tuple[str, int], Arrays]) -> Sequence[Claim]:
    """C or C - 1 in nine of ten runs of an architecture; one more for each class: 0.8 to 1.2."""
    rows = []
    for what, text in (
        ("gap", "The number of outliers, by the largest gap, is the number of classes C, or C - 1"),
        ("aligned", "The eigenvectors within the span of the class means are C, or C - 1"),
    ):
        right = {kind: _right(found, kind, what) for kind in KINDS}
        slopes = {kind: slope(found, kind, what) for kind in KINDS}
        good = [kind for kind in KINDS if right[kind] >= 0.9]
        holds = verdict(len(good) == len(KINDS), False)
        if good and holds == "no":
            holds = f"only when the network is a {' or a '.join(good)}"
        elif holds == "no" and any(0.8 <= v <= 1.2 for v in slopes.values()):
            holds = "in part"
        said = tuple(
            f"{kind}: {right[kind]:.0%} of runs, {slopes[kind]:.2f} more for each class"
            for kind in KINDS
        )
        rows.append(
            Claim(
                text, "; ".join(said), holds, "landscapes/outliers-classes",
                said if holds == "no" else (),
            )
        )  # fmt: skip
    return rows


def _right(found: dict[tuple[str, int], Arrays], kind: str, what: str) -> float:
    hits = [(f[what] == C) | (f[what] == C - 1) for (k, C), f in found.items() if k == kind]
    return float(torch.cat(hits).double().mean())


def _text(found: dict[tuple[str, int], Arrays], s: Sizes) -> str:
    rows = [
        [
            kind, str(C), spread(f["loss"]), spread(f["gap"]), f"{float(f['clear'].mean()):.0%}",
            spread(f["aligned"]), spread(f["top"]),
        ]
        for (kind, C), f in found.items()
    ]  # fmt: skip
    head = ["network", "classes", "training loss", "largest gap", "clear", "in the class means",
            "λmax"]  # fmt: skip
    return (
        f"Digits below C, {s.examples} of them at most, for perceptron (49-12-C) and CNN; for the "
        f"transformer {s.windows} windows of text, whose next symbol is one of the C - 1 most "
        f"frequent ones or another. {s.seeds} seeds, the Hessian's largest eigenvalues. *Largest "
        "gap*: where λ_i / λ_(i+1) is largest (`hs.outliers`), and how often that is clear; *in "
        "the class means*: eigenvectors with more than half of their square in the span of the "
        "mean gradients by class (`hs.class_decomposition`).\n\n" + table(head, rows)
    )


def _draw(found: dict[tuple[str, int], Arrays], s: Sizes) -> Figure:
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    C = torch.tensor(s.classes)
    for ax, kind in zip(figure.subplots(1, 3, sharey=True), KINDS, strict=True):
        ax.plot(C, C, color=ZERO, lw=1, label="C")
        ax.plot(C, C - 1, color=ZERO, lw=1, ls=":", label="C - 1")
        for what, colour, shift in (("gap", NEGATIVE, -0.15), ("aligned", POSITIVE, 0.15)):
            for c in s.classes:
                counts = found[kind, c][what]
                ax.plot(torch.full_like(counts, c + shift), counts, "o", ms=5, alpha=0.5,
                        color=colour)  # fmt: skip
        ax.set(title=kind, xlabel="classes C", xticks=s.classes)
        ax.spines[["top", "right"]].set_visible(False)
    ax.plot([], [], "o", color=NEGATIVE, label="largest gap")
    ax.plot([], [], "o", color=POSITIVE, label="in the class means")
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


VARIANTS = ("all", "five dropped", "five pairs merged", "one weighted 10 times")
WEIGHTED = 3  # the class


def categories(run: Run, s: Sizes) -> Section:
    """Classes dropped, merged and reweighted; and rare classes, with and without weights."""
    train, test = networks.images(s.examples), networks.images(s.tested, s.examples)
    key = (s.brief, 0.9, digest(*train))
    changed = {
        name: over(run, f"categories/{name.replace(' ', '-')}", key, range(s.seeds),
                   partial(_changed, name, train, s))
        for name in VARIANTS
    }  # fmt: skip
    rare = over(run, "categories/rare", key, range(s.seeds), partial(_rare, train, test, s))
    return Section(
        _changes(changed, rare, s), _served(changed, rare), _drawn(changed, rare),
        {**changed, "rare": rare},
    )  # fmt: skip


def _changed(name: str, train: networks.Pair, s: Sizes, seed: int) -> Arrays:
    """The same start and number of outputs; other labels, examples or weights."""
    X, y = train
    weight = torch.ones(10, dtype=torch.float64)
    if name == "five dropped":
        X, y = X[y < 5], y[y < 5]
    elif name == "five pairs merged":
        y = y % 5
    elif name == "one weighted 10 times":
        weight[WEIGHTED] = 10
    loss = nn.CrossEntropyLoss(weight)
    model = networks.made(partial(networks.perceptron, 49, s.hidden, 10), seed)
    networks.trained(model, loss, (X, y), Recipe(0.05, s.brief), seed)
    problem = hs.Problem(model, loss, (X, y))
    v = hs.eigsh(hs.Hessian(problem), 1, seed=0).eigenvectors[:, 0]
    means = hs.class_decomposition(problem).class_means[:, WEIGHTED]
    return {
        **counted(model, (X, y), 10, loss),
        "towards": (v @ means / means.norm().clamp(min=1e-300)).square(),
    }


def _rare(train: networks.Pair, test: networks.Pair, s: Sizes, seed: int) -> Arrays:
    """Five classes with a tenth of their examples; weights that make up for it, or none."""
    X, y = train
    g = torch.Generator().manual_seed(seed)
    kept = (y < 5) | (torch.rand(len(y), generator=g) < 0.1)
    X, y = X[kept], y[kept]
    counts = y.bincount(minlength=10).clamp(min=1).double()
    found = {}
    for name, weight in (("plain", torch.ones(10).double()), ("weighted", 1 / counts)):
        loss = nn.CrossEntropyLoss(weight / weight.mean())
        model = networks.made(partial(networks.perceptron, 49, s.hidden, 10), seed)
        networks.trained(model, loss, (X, y), Recipe(0.05, s.brief), seed)
        problem = hs.Problem(model, loss, (X, y))
        found[f"{name} top"] = hs.eigsh(hs.Hessian(problem), 1, seed=0).eigenvalues[0]
        right = (model(test[0]).argmax(1) == test[1]).double()
        by_class = [right[test[1] == c].mean() for c in range(10) if (test[1] == c).any()]
        found[f"{name} accuracy"] = torch.stack(by_class).mean().detach()
    return found


def _served(changed: dict[str, Arrays], rare: Arrays) -> Sequence[Claim]:
    """Aligned eigenvectors fall by five (4 to 6) in four of five seeds; the accuracy's interval."""
    rows = []
    before = changed["all"]["aligned"]
    for name in ("five dropped", "five pairs merged"):
        fewer = before - changed[name]["aligned"]
        right = float(((fewer - 5).abs() <= 1).double().mean())
        attempts = tuple(f"{n}: {spread(f['aligned'])}" for n, f in changed.items())
        rows.append(
            Claim(
                f"With {name} the outliers are five fewer",
                f"within the class means {spread(changed[name]['aligned'])} instead of "
                f"{spread(before)} (largest gap {spread(changed[name]['gap'])} instead of "
                f"{spread(changed['all']['gap'])}); five fewer, give or take one, in {right:.0%}",
                verdict(right >= 0.8, bool((fewer > 0).all())), "landscapes/categories",
                attempts if not (right >= 0.8 or bool((fewer > 0).all())) else (),
            )
        )  # fmt: skip
    rows += [_turned(changed), _gained(rare)]
    return rows


def _turned(changed: dict[str, Arrays]) -> Claim:
    """The top eigenvector holds more of the weighted class's mean, and λmax is larger: always."""
    plain, heavy = changed["all"], changed["one weighted 10 times"]
    more = (heavy["towards"] > plain["towards"]).double().mean()
    return Claim(
        "A class with more weight turns the top of the spectrum towards itself",
        f"squared cosine of the top eigenvector with the mean gradient of the class "
        f"{spread(plain['towards'])} without, {spread(heavy['towards'])} with 10 times the weight; "
        f"λmax times {spread(heavy['top'] / plain['top'])}",
        verdict(bool(more == 1), bool(more > 0.5)), "landscapes/categories",
        tuple(f"seed {i}: {number(float(a))} to {number(float(b))}"
              for i, (a, b) in enumerate(zip(plain["towards"], heavy["towards"], strict=True)))
        if not more > 0.5 else (),
    )  # fmt: skip


def _gained(rare: Arrays) -> Claim:
    gain = rare["weighted accuracy"] - rare["plain accuracy"]
    mean, half = interval(gain)
    ratio = rare["weighted top"] / rare["plain top"]
    holds = "yes" if mean - half > 0 else "no" if mean + half < 0 else "undecided"
    return Claim(
        "Changing the weights of the categories serves training",
        "five classes with a tenth of their examples, weights that make up for it: accuracy over "
        f"ten classes on other digits {100 * mean:+.1f} ± {100 * half:.1f} points (95 %); λmax "
        f"times {spread(ratio)}, so the largest stable rate divided by that",
        holds, "landscapes/categories",
        tuple(f"seed {i}: {100 * float(g):+.1f}" for i, g in enumerate(gain))
        if holds == "no" else (),
    )  # fmt: skip


def _changes(changed: dict[str, Arrays], rare: Arrays, s: Sizes) -> str:
    rows = [
        [name, spread(f["loss"]), spread(f["top"]), spread(f["gap"]), spread(f["aligned"]),
         spread(f["towards"])]
        for name, f in changed.items()
    ]  # fmt: skip
    head = ["classes", "training loss", "λmax", "largest gap", "in the class means",
            f"top eigenvector towards class {WEIGHTED}"]  # fmt: skip
    return (
        f"49-12-10 on {s.examples} digits from the same {s.seeds} starts, with ten outputs always. "
        "*Dropped*: digits 5 to 9 are left out. *Merged*: 0 and 5 are one class, 1 and 6, and so "
        f"on. *Weighted*: class {WEIGHTED} counts ten times in the loss.\n\n"
        + table(head, rows)
        + "\n\nWith five classes made rare, accuracy over ten classes is "
        f"{spread(rare['plain accuracy'])} without weights and {spread(rare['weighted accuracy'])} "
        f"with; λmax {spread(rare['plain top'])} and {spread(rare['weighted top'])}."
    )


def _drawn(changed: dict[str, Arrays], rare: Arrays) -> Figure:
    figure = Figure(figsize=(9.5, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 1])
    names = ["all", "dropped", "merged", "weighted"]
    for i, f in enumerate(changed.values()):
        ones = torch.ones_like(f["top"])
        left.plot((i - 0.12) * ones, f["gap"], "o", color=NEGATIVE, alpha=0.5)
        left.plot((i + 0.12) * ones, f["aligned"], "o", color=POSITIVE, alpha=0.5)
        middle.plot(i * ones, f["top"], "o", color=MARK, alpha=0.6)
    left.plot([], [], "o", color=NEGATIVE, label="largest gap")
    left.plot([], [], "o", color=POSITIVE, label="in the class means")
    left.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    left.set_title("outliers", fontsize=10)
    middle.set_title("λmax", fontsize=10)
    for ax in (left, middle):
        ax.set_xticks(range(4), names)
    left.set_ylim(bottom=0)
    middle.set_ylim(bottom=0)
    both = torch.stack([rare["plain accuracy"], rare["weighted accuracy"]])
    right.plot([0, 1], both, "o-", color=POSITIVE, alpha=0.7)
    right.set_xticks([0, 1], ["none", "by inverse number"])
    right.set(xlim=(-0.4, 1.4), title="accuracy, five classes rare")
    right.title.set_fontsize(10)
    right.set_xlabel("weights")
    for ax in (left, middle, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure

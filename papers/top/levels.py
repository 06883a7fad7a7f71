"""Three levels of the Gauss-Newton spectrum: classes, pairs of them, within (Papyan 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from common.claims import Claim, number, spread, verdict
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
from top.sizes import Sizes

CLASSES = 10
NEAR = 0.2  # of an eigenvalue
SPAN = 0.9  # of an eigenvector's square


def kinds(s: Sizes) -> dict[str, Callable[[], nn.Module]]:
    """The networks of the study."""
    every: dict[str, Callable[[], nn.Module]] = {
        "perceptron": partial(networks.perceptron, 49, s.hidden, 10),
        "tanh": partial(networks.perceptron, 49, s.hidden, 10, act=nn.Tanh),
        "CNN": partial(networks.convolutions, 10, *s.channels),
    }
    return dict(list(every.items())[: s.networks])


def measure(run: Run, s: Sizes) -> Section:
    """At the end of training, on the training data."""
    pair = networks.images(s.examples)
    found = {
        name: over(run, f"levels/{name}", (s.steps, "padded", digest(*pair)), range(s.seeds),
                   partial(_one, make, pair, s))
        for name, make in kinds(s).items()
    }  # fmt: skip
    numbers = {name: {key: v for key, v in f.items() if v.ndim == 1} for name, f in found.items()}
    return Section(_text(found, s), claims(found), _draw(found), numbers)


def _one(make: Callable[[], nn.Module], pair: networks.Pair, s: Sizes, seed: int) -> Arrays:
    recipe = networks.Recipe(0.05, s.steps)
    model = networks.trained(networks.made(make, seed), F.cross_entropy, pair, recipe, seed)
    problem = hs.Problem(model, F.cross_entropy, pair)
    k = min(150, problem.n // 2)
    G = hs.GaussNewton(problem).to_dense()
    values, vectors = torch.linalg.eigh((G + G.T) / 2)
    values, vectors = values.flip(0)[:k], vectors.flip(1)[:, : CLASSES + 5]
    parts = hs.class_decomposition(problem, vectors)
    assert parts.overlap is not None
    return {
        "values": values.clone(), "by_class": padded(parts.class_eigenvalues, CLASSES - 1),
        "by_pair": padded(parts.cross_eigenvalues.clamp(min=0), CLASSES * (CLASSES - 1)),
        "overlap": parts.overlap.double(), "class": scalar(parts.trace_class / parts.trace),
        "cross": scalar(parts.trace_cross / parts.trace),
        "within": scalar(parts.trace_within / parts.trace),
        "gap": scalar(hs.outliers(values[values > 0], CLASSES).count),
        "loss": scalar(problem.loss()),
    }  # fmt: skip


def padded(values: Tensor, size: int) -> Tensor:
    """As many values as classes have, zeros after those that there are."""
    return F.pad(values[:size], (0, max(size - len(values), 0)))


def apart(f: Arrays) -> Tensor:
    """The smallest of the class eigenvalues over the largest of those by pairs."""
    return f["by_class"][:, -1] / f["by_pair"][:, 0]


def claims(found: dict[str, Arrays]) -> Sequence[Claim]:
    """Levels apart; the top within NEAR of the class part's; eigenvectors SPAN within the means."""
    separation = {name: apart(f) for name, f in found.items()}
    ratio = {name: f["values"][:, : CLASSES - 1] / f["by_class"] - 1 for name, f in found.items()}
    inside = {name: f["overlap"][:, : CLASSES - 1].amin(1) for name, f in found.items()}
    return (
        _claim(
            "The eigenvalues of the class part stand above those of the pairs of classes",
            "smallest of the C - 1 over the largest of the C (C - 1)", separation,
            lambda v: v > 1,
        ),
        _claim(
            "The C - 1 largest eigenvalues of G are those of its class part, to a fifth",
            "largest relative difference",
            {name: v.abs().amax(1) for name, v in ratio.items()}, lambda v: v <= NEAR,
        ),
        _claim(
            "The C - 1 largest eigenvectors of G lie to nine tenths in the span of the class means",
            "least squared projection", inside, lambda v: v >= SPAN,
        ),
        _claim(
            "The largest gap of the spectrum of G is after C - 1 or C eigenvalues",
            "eigenvalues above it", {name: f["gap"] for name, f in found.items()},
            lambda v: (v == CLASSES - 1) | (v == CLASSES),
        ),
    )  # fmt: skip


def _claim(
    text: str, what: str, values: dict[str, Tensor], rule: Callable[[Tensor], Tensor]
) -> Claim:
    """In all runs; in part: in more than half of them."""
    hits = rule(torch.cat(list(values.values()))).double().mean()
    tried = tuple(f"{name} {spread(v)}" for name, v in values.items())
    return Claim(
        text, f"{what}: {'; '.join(tried)}; so in {hits:.0%} of runs",
        verdict(bool(hits == 1), bool(hits > 0.5)), "landscapes/outliers-classes",
        tried if not hits > 0.5 else (),
    )  # fmt: skip


def _text(found: dict[str, Arrays], s: Sizes) -> str:
    rows = [
        [
            name, spread(f["loss"]), *(spread(f[part]) for part in ("class", "cross", "within")),
            number(float(f["values"][:, 0].median())),
            number(float(f["values"][:, CLASSES - 2].median())),
            number(float(f["by_pair"][:, 0].median())), spread(f["gap"]),
        ]
        for name, f in found.items()
    ]  # fmt: skip
    head = ["network", "loss", "trace: class", "pairs of classes", "within", "λ1 of G",
            "λ9 of G", "largest of the pairs", "largest gap"]  # fmt: skip
    return (
        f"{s.examples} digits in ten classes, {s.steps} steps with momentum 0.9 in batches of 50, "
        f"{s.seeds} seeds. "
        "G = class + cross + within (`hs.class_decomposition`): the gradients' means by class, the "
        "means by class and wrong class around those, and what is left.\n\n" + table(head, rows)
    )


def _draw(found: dict[str, Arrays]) -> Figure:
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    for ax, (name, f) in zip(
        figure.subplots(1, len(found), sharey=True), found.items(), strict=True
    ):
        for key, colour, label in (
            ("values", ZERO, "G"), ("by_pair", MARK, "pairs of classes"),
            ("by_class", NEGATIVE, "classes"),
        ):  # fmt: skip
            y = f[key].median(0).values
            ax.plot(range(1, len(y) + 1), y.clamp(min=1e-12), "o", ms=3, color=colour, label=label)
        ax.axvline(CLASSES - 0.5, color=POSITIVE, lw=0.8, ls=":")
        ax.set(xscale="log", yscale="log", xlabel="rank", title=name)
        ax.set_ylim(bottom=1e-6)
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("eigenvalue, median over seeds")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure

"""What of the null space is symmetry, and what is more parameters than data."""

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
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from land import networks
from land.bulk import FLAT
from land.networks import Recipe
from land.sizes import Sizes

ZEROS = 1e-12  # of λmax: below it an eigenvalue is zero
CLASSES = 10


def measure(run: Run, s: Sizes) -> Section:
    """Zeros of G against the number of examples; what is flat after training, and why."""
    kinds = _kinds(s)
    ladders = {
        name: over(
            run,
            f"symmetries/{name}",
            (s.ladder, "inputs"),
            range(s.seeds),
            partial(_ladder, make, s),
        )
        for name, make in kinds.items()
    }
    train = networks.images(s.examples)
    key = (s.brief, 0.9, digest(*train))
    ends = {
        name: over(run, f"symmetries/{name}/trained", key, range(s.seeds),
                   partial(_trained, make, train, s))
        for name, make in kinds.items()
    }  # fmt: skip
    numbers = {**ladders, **{f"{name}, trained": f for name, f in ends.items()}}
    text = _text(ends, s)
    return Section(text, claims(ladders, ends), _draw(ladders, s), numbers)


def _kinds(s: Sizes) -> dict[str, Callable[[], nn.Module]]:
    k, (first, second) = s.hidden // 2, s.channels
    every: dict[str, Callable[[], nn.Module]] = {
        f"ReLU 49-{k}-10": partial(networks.perceptron, 49, k, 10),
        f"tanh 49-{k}-10": partial(networks.perceptron, 49, k, 10, act=nn.Tanh),
        "CNN": partial(networks.convolutions, 10, first // 2 or 1, second),
    }
    return dict(list(every.items())[: s.networks])


def predicted(n: int, symmetric: Tensor, examples: Tensor) -> Tensor:
    """Zeros of G: parameters beyond N (C - 1) equations, and no fewer than the symmetries make."""
    return torch.maximum(n - (CLASSES - 1) * examples, symmetric)


def _ladder(make: Callable[[], nn.Module], s: Sizes, seed: int) -> Arrays:
    """At the start, where softmax saturates nowhere."""
    model = networks.made(make, seed)
    zeros, symmetric, named = [], [], None
    for num in s.ladder:
        X, y = networks.images(num)
        problem = hs.Problem(model, F.cross_entropy, (X, y))
        values = hs.spectrum(hs.GaussNewton(problem), check=False).eigenvalues
        zeros.append(int((values.abs() <= ZEROS * values.max()).sum()))
        named = named or causes(problem, X)  # but for dead inputs they do not depend on the data
        symmetric.append(named["rescaling of units"] + _others(problem, named))
    return {
        "zeros": torch.tensor(zeros).double(), "symmetric": torch.tensor(symmetric).double(),
        "n": scalar(len(values)), "examples": torch.tensor(s.ladder),
    }  # fmt: skip


def _others(problem: hs.Problem, named: dict[str, int]) -> int:
    """Zeros of a perceptron by softmax shift, inputs in a subspace, units seldom or never live.

    Of other networks those by softmax shift.
    """
    if not isinstance(problem.model[0], nn.Linear):
        return named["softmax shift"]
    return sum(hs.spectrum(hs.Hessian(problem), check=False).zeros.values())


def causes(problem: hs.Problem, X: Tensor) -> dict[str, int]:
    """How many zeros the symmetries of a network make, and inputs that are zero in all examples."""
    found = hs.basin(problem, num_directions=1, max_matvecs=12)
    named = {"rescaling of units": 0, "softmax shift": 0, "dead inputs": 0}
    for text in found.symmetries:
        kind, count = text.rsplit(", ", 1)
        name = "softmax shift" if kind.startswith("softmax") else "rescaling of units"
        named[name] += int(count.split()[0])
    first = problem.model[0]
    if isinstance(first, nn.Linear):
        named["dead inputs"] = int((X == 0).all(0).sum()) * first.out_features
    return named


def _trained(make: Callable[[], nn.Module], train: networks.Pair, s: Sizes, seed: int) -> Arrays:
    """Of the flat directions after training, how many the symmetries and dead inputs explain."""
    model = networks.made(make, seed)
    networks.trained(model, F.cross_entropy, train, Recipe(0.05, s.brief), seed)
    problem = hs.Problem(model, F.cross_entropy, train)
    values = hs.spectrum(hs.Hessian(problem), check=False).eigenvalues
    zeros = hs.spectrum(hs.GaussNewton(problem), check=False).eigenvalues
    named = causes(problem, train[0])
    return {
        "flat": (values.abs() <= FLAT * values.abs().max()).double().sum(),
        "zeros": (zeros.abs() <= ZEROS * zeros.max()).double().sum(),
        "n": scalar(len(values)),
        **{name: scalar(float(count)) for name, count in named.items()},
    }


def claims(ladders: dict[str, Arrays], ends: dict[str, Arrays]) -> Sequence[Claim]:
    """Counts that agree exactly; and the share of what is flat that they explain."""
    wrong, total = 0, 0
    for f in ladders.values():
        short = _difference(f)
        wrong, total = wrong + int((short != 0).sum()), total + short.numel()
    explained = {name: _explained(f) for name, f in ends.items()}
    everything = torch.cat(list(explained.values()))
    attempts = tuple(f"{name} {spread(v)}" for name, v in explained.items())
    return (
        Claim(
            "The zeros of G are as many as symmetries make, or parameters beyond the equations of "
            "the data",
            f"the larger of the two counts is the number of zeros in {total - wrong} of {total} "
            "cases (networks, numbers of examples, seeds)",
            verdict(wrong == 0, wrong < total / 2), "landscapes/symmetries",
            _differences(ladders) if wrong >= total / 2 else (),
        ),
        _together(ladders),
        Claim(
            "Symmetries explain the flat directions of a trained network",
            f"with more equations than parameters, {spread(everything)} of the eigenvalues within "
            f"{FLAT:g} of λmax are symmetries or dead inputs",
            verdict(bool((everything >= 0.9).all()), bool((everything >= 0.5).all())),
            "landscapes/symmetries", attempts if not bool((everything >= 0.5).all()) else (),
        ),
    )  # fmt: skip


def _explained(f: Arrays) -> Tensor:
    return (f["rescaling of units"] + f["softmax shift"] + f["dead inputs"]) / f["flat"]


def _together(ladders: dict[str, Arrays]) -> Claim:
    """Nine tenths of the zeros explained in all cases (yes), or half of them in most cases."""
    shares = {
        name: predicted(int(f["n"][0]), f["symmetric"], f["examples"]) / f["zeros"]
        for name, f in ladders.items()
    }
    every = torch.cat([v.flatten() for v in shares.values()])
    by = tuple(f"{name} {spread(v)}" for name, v in shares.items())
    most = bool((every >= 0.5).double().mean() > 0.5)
    return Claim(
        "That larger count explains most of the zeros",
        f"share of the zeros of G: {'; '.join(by)} (a CNN with dead channels has many more)",
        verdict(bool((every >= 0.9).all()), most),
        "landscapes/symmetries",
        by if not most else (),
    )


def _difference(f: Arrays) -> Tensor:
    return f["zeros"] - predicted(int(f["n"][0]), f["symmetric"], f["examples"])


def _differences(ladders: dict[str, Arrays]) -> tuple[str, ...]:
    return tuple(f"{name} off by {spread(_difference(f))}" for name, f in ladders.items())


def _text(ends: dict[str, Arrays], s: Sizes) -> str:
    rows = [
        [
            name, number(float(f["n"][0])), spread(f["zeros"]), spread(f["flat"]),
            spread(f["rescaling of units"]), spread(f["softmax shift"]), spread(f["dead inputs"]),
            spread(_explained(f)),
        ]
        for name, f in ends.items()
    ]  # fmt: skip
    head = ["network", "n", "zeros of G", f"λ of H within {FLAT:g} of λmax", "rescaling of units",
            "softmax shift", "dead inputs", "share of the flat ones"]  # fmt: skip
    return (
        "Zeros of the Gauss-Newton matrix G (below 1e-12 of λmax) at the start, against the number "
        "of examples N. What leaves all outputs as they are is a zero of G at every point: the "
        "rescaling of units through ReLU, a shift of all logits, and in a perceptron weights that "
        "act on no input that the unit is live on (`hs.basin` names the first, the spectrum of a "
        "perceptron the others). And N examples of C classes give G at most "
        "N (C - 1) equations. Squares are what was counted, lines what the two counts say. "
        f"\n\nAfter training on {s.examples} digits, where the equations outnumber the "
        f"parameters, {s.seeds} seeds:\n\n" + table(head, rows)
    )


def _draw(ladders: dict[str, Arrays], s: Sizes) -> Figure:
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    for ax, (name, f) in zip(
        figure.subplots(1, len(ladders), squeeze=False)[0], ladders.items(), strict=True
    ):
        N, n = torch.tensor(s.ladder).double(), int(f["n"][0])
        symmetric = f["symmetric"].median(0).values
        ax.plot(N, n - (CLASSES - 1) * N, color=POSITIVE, label="n - N (C - 1)")
        ax.plot(N, symmetric, color=NEGATIVE, label="symmetries and inputs")
        ax.plot(N, f["zeros"].median(0).values, "s", color=MARK, label="zeros of G")
        ax.axhline(n, color=ZERO, lw=0.8, ls=":")
        ax.set(xscale="log", ylim=(0, 1.05 * n), xlabel="examples N", title=name)
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure

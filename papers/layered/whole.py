"""Is each layer's spectrum like the whole's, and which layer has the most curvature?"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from common.claims import NO, PARTLY, YES, Claim, spread, verdict
from common.data import digest
from common.keeping import Run
from common.study import Section, table
from torch import Tensor, nn

import hesscope as hs
from layered import chances, figures, spectra
from layered.networks import Kind, kinds, perceptron, trained

STATES = ("start", "trained")
LIKE = 0.5  # of the distance between a semicircle and the whole
MOST = 0.8  # of the seeds, in which something has to be so
Found = dict[str, dict[str, list[dict[str, Tensor]]]]  # by network, by state, a seed each


def looked(run: Run, sizes: Any) -> tuple[dict[str, Kind], Found]:
    """The spectra of all networks, seeds and states."""
    all_kinds = kinds(sizes)
    found: Found = {name: {state: [] for state in STATES} for name in all_kinds}
    for name, kind in all_kinds.items():
        for seed in range(sizes.seeds):
            for state in STATES:
                key = (
                    state,
                    sizes.widths,
                    sizes.steps,
                    sizes.lr,
                    sizes.products,
                    digest(*kind.data),
                )
                job = partial(_look, kind, seed, state, sizes)
                found[name][state].append(run.arrays(f"{name}/{seed}/{state}", key, job))
    return all_kinds, found


def _look(kind: Kind, seed: int, state: str, sizes: Any) -> dict[str, Tensor]:
    start = state == "start"
    model = kind.make(seed) if start else trained(kind, seed, sizes.steps, sizes.lr)
    problem = kind.problem(model)
    found = spectra.measured(kind, problem)
    if not start:
        found["estimated"] = spectra.estimated(kind, problem, sizes.products)
    return found


def measure(run: Run, sizes: Any) -> Section:
    """Shapes, the nearest layer, and the layer with the most curvature."""
    all_kinds, found = looked(run, sizes)
    further = inner(run, all_kinds["MLP"], sizes)
    shapes = chances.shapes(run, all_kinds["MLP"], sizes)
    like = chances.tried(alike(found), chances.below(shapes, LIKE))
    claims = [like, bulks(found, all_kinds), nearest(found), dominating(found, further)]
    numbers = {
        name: {state: [_numbers(one) for one in seeds] for state, seeds in states.items()}
        for name, states in found.items()
    }
    return Section(_text(found), claims, figures.layers(found), numbers)


def _numbers(one: dict[str, Tensor]) -> dict[str, Any]:
    tops = {name: float(e[-1]) for name, e in spectra.of(one, "layer").items()}
    traces = {name: float(e.sum()) for name, e in spectra.of(one, "layer").items()}
    return {
        "loss": one["loss"], "lambda_max": float(one["whole"][-1]), "layer lambda_max": tops,
        "layer trace": traces, "unlikeness": spectra.unlikeness(one), "mass": one["mass"],
    }  # fmt: skip


def unlike(seeds: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """By layer, the unlikeness over seeds."""
    rows = [spectra.unlikeness(one) for one in seeds]
    return {name: torch.tensor([row[name] for row in rows]).double() for name in rows[0]}


def alike(found: Found) -> Claim:
    """Yes if the median unlikeness of every layer of every trained network is below one half.

    In part if it is for more than half of the layers; no otherwise.
    """
    likes, words = [], []
    for name, states in found.items():
        medians = [float(v.median()) for v in unlike(states["trained"]).values()]
        likes += [m < LIKE for m in medians]
        words.append(f"{name} {spread(torch.tensor(medians))}")
    share = sum(likes) / len(likes)
    holds = YES if all(likes) else PARTLY if share > 0.5 else NO
    early = {n: torch.cat(list(unlike(s["start"]).values())) for n, s in found.items()}
    starts = [f"{n} before training, median {float(v.median()):.2g}" for n, v in early.items()]
    return Claim(
        "The spectrum of each layer is like that of the whole network",
        "distance of a layer's shape to the whole's, 1 being that of a semicircle, over layers: "
        f"{', '.join(words)}; below {LIKE:g} in {sum(likes)} of {len(likes)} layers",
        holds,
        "landscapes/layers",
        tuple(starts) if holds == NO else (),
    )


def bulky(eigenvalues: Tensor, classes: int) -> bool:
    """Whether most are below a hundredth of the largest |λ| and at most C above a tenth of it."""
    sizes = eigenvalues / eigenvalues.abs().max()
    return bool((sizes.abs() < 0.01).double().mean() > 0.5 and (sizes > 0.1).sum() <= classes)


def bulks(found: Found, kinds: dict[str, Kind]) -> Claim:
    """Yes if every layer of every trained network and seed has a bulk and at most C outliers.

    In part if half of them have.
    """
    good, words = [], []
    for name, states in found.items():
        classes = int(kinds[name].data[1].max()) + 1
        seen = [
            bulky(e, classes)
            for one in states["trained"]
            for e in spectra.of(one, "layer").values()
        ]
        whole = sum(bulky(one["whole"], classes) for one in states["trained"])
        seeds = len(states["trained"])
        words.append(f"{name} {sum(seen)} of {len(seen)}, the whole {whole} of {seeds}")
        good += seen
    share = sum(good) / len(good)
    return Claim(
        "Each layer has a bulk near zero and few outliers, as the whole has",
        "more than half of |λ| below a hundredth of the largest and at most C eigenvalues above a "
        f"tenth of it, in layers and seeds: {'; '.join(words)}",
        verdict(share == 1, share >= 0.5),
        "landscapes/layers",
        tuple(words) if share < 0.5 else (),
    )


def inside(values: Tensor) -> bool:
    """Whether the first of the largest is neither the first nor the last layer.

    >>> inside(torch.tensor([1.0, 3.0, 2.0])), inside(torch.tensor([3.0, 1.0]))
    (True, False)
    """
    return 0 < int(values.argmax()) < len(values) - 1


def _counted(found: Found, state: str, values: Any) -> dict[str, int]:
    """In how many seeds of each network the largest of `values(seed)` lies inside."""
    return {n: sum(inside(values(one)) for one in s[state]) for n, s in found.items()}


def _judged(counts: dict[str, int], seeds: int) -> str:
    enough = [count >= MOST * seeds for count in counts.values()]
    return YES if all(enough) else PARTLY if any(enough) else NO


def nearest(found: Found) -> Claim:
    """Yes if in 4 of 5 seeds of each trained network an inner layer is the nearest to the whole."""

    def values(one: dict[str, Tensor]) -> Tensor:
        return -torch.tensor(list(spectra.unlikeness(one).values()))

    late, early = (_counted(found, state, values) for state in ("trained", "start"))
    seeds = len(next(iter(found.values()))["start"])
    holds = _judged(late, seeds)
    return Claim(
        "A middle layer's spectrum is the most similar to the whole's (Sankar et al. 2021)",
        f"an inner layer is the nearest in {_words(late)} of {seeds} seeds; before training "
        f"{_words(early)}; of the layers by chance {_chance(found)}",
        holds,
        "landscapes/layers",
        tuple(f"{n} trained: {c} of {seeds}" for n, c in late.items()) if holds == NO else (),
    )


def inner(run: Run, kind: Kind, sizes: Any) -> dict[str, int]:
    """Further perceptrons where a middle layer might dominate: in how many seeds it has λmax."""
    hidden = sizes.widths[0]
    relu = partial(perceptron, hidden, activation=nn.ReLU)
    deep = partial(perceptron, hidden, depth=8)
    settings = {
        "ReLU": (replace(kind, make=relu), sizes.steps),
        "eight hidden layers": (replace(kind, make=deep), sizes.steps),
        f"after {sizes.steps // 10} steps": (kind, sizes.steps // 10),
    }
    counts = {}
    for name, (one, steps) in settings.items():
        place, key = f"chance/{name.replace(' ', '-')}", (sizes.widths, steps, sizes.lr)
        rows = [
            run.arrays(f"{place}/{seed}", (*key, digest(*kind.data)),
                       partial(_tops, one, seed, steps, sizes.lr)) for seed in range(sizes.seeds)
        ]  # fmt: skip
        counts[name] = sum(inside(row["tops"]) for row in rows)
    return counts


def _tops(kind: Kind, seed: int, steps: int, lr: float) -> dict[str, Tensor]:
    return {"tops": hs.layer_map(kind.problem(trained(kind, seed, steps, lr))).lambda_max}


def dominating(found: Found, further: dict[str, int]) -> Claim:
    """Yes if in 4 of 5 seeds of each trained network an inner layer has the largest λmax.

    In part if in some network; only when not trained if in none, but in one at its start.
    """

    def top(one: dict[str, Tensor]) -> Tensor:
        return torch.stack([e[-1] for e in spectra.of(one, "layer").values()])

    def trace(one: dict[str, Tensor]) -> Tensor:
        return torch.stack([e.sum() for e in spectra.of(one, "layer").values()])

    late, early = (_counted(found, state, top) for state in ("trained", "start"))
    traces = _counted(found, "trained", trace)
    seeds = len(next(iter(found.values()))["start"])
    holds = _judged(late, seeds)
    fresh = [name for name, count in early.items() if count >= MOST * seeds]
    if holds == NO and fresh:
        holds = f"only when not trained yet ({', '.join(fresh)})"
    return Claim(
        "Middle layers dominate the curvature",
        f"an inner layer has the largest λmax in {_words(late)} of {seeds} seeds, before training "
        f"{_words(early)}, the largest trace in {_words(traces)}; by chance {_chance(found)}. "
        f"Further perceptrons: {_words(further)}",
        holds,
        "landscapes/layers",
        tuple(f"{n}: {c} of {seeds}" for n, c in (late | further).items()) if holds == NO else (),
    )


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _chance(found: Found) -> str:
    sizes = {n: len(spectra.of(s["start"][0], "layer")) for n, s in found.items()}
    return ", ".join(f"{name} {(size - 2) / size:.0%}" for name, size in sizes.items())


def _text(found: Found) -> str:
    rows = []
    for name, states in found.items():
        late, early = unlike(states["trained"]), unlike(states["start"])
        for i, layer in enumerate(late):
            tops = [
                torch.stack([spectra.of(one, "layer")[layer][-1] for one in states[state]])
                for state in STATES
            ]
            mass = torch.stack([one["mass"][i] for one in states["trained"]])
            size = len(spectra.of(states["start"][0], "layer")[layer])
            cells = [spread(v) for v in (*tops, early[layer], late[layer], mass)]
            rows.append([name, str(i + 1) if layer.isdigit() else layer, str(size), *cells])
    head = ["network", "layer", "parameters", "λmax at the start", "trained", "unlike the whole at "
            "the start", "trained", "mass in the top ten eigenvectors"]  # fmt: skip
    return f"""\
The *shape* of a spectrum is its histogram over half decades of ±λ/max|λ|. How unlike a layer is
to the whole is the distance of Jensen and Shannon between their shapes, over that between the
whole's and Wigner's semicircle: 0 is the same shape, 1 no more alike than a random matrix. Layers
of the transformer are embeddings, attention and perceptron of each block, and the head.

{table(head, rows)}

Layers should be most like the whole where there are two of them, where they are of one size (digits
of 4 x 4 pixels, 16 hidden units), and early: the claims say what these gave."""

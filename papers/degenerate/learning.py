"""The learning coefficient by a localised sampler, where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from common.claims import NO, PARTLY, YES, Claim, interval, number
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE
from matplotlib.figure import Figure
from torch import Tensor

from degenerate import aoyagi
from degenerate.sampler import rank_normalised_rhat, sample
from degenerate.settings import Sizes

AGREE = 1.02  # R̂ above which chains have not mixed, and nothing is claimed
SLACK = 0.03  # of the coefficient: what the localisation and a finite t may change
Truth = tuple[tuple[int, ...], int]


def measure(run: Run, sizes: Sizes) -> Section:
    """Every truth."""
    found = {truth: _one(run, sizes, truth) for truth in sizes.truths}
    rows = [row(truth, chains, sizes.temperature) for truth, chains in found.items()]
    return Section(_text(rows, sizes), [agrees(rows), below(rows)], draw(rows), {"rows": rows})


def _one(run: Run, sizes: Sizes, truth: Truth) -> Arrays:
    widths, rank = truth
    key = (truth, sizes.temperature, sizes.chains, sizes.draws, sizes.leaps)

    def job() -> Arrays:
        energy, centre = distance(widths, rank)
        chains = sample(
            lambda w: sizes.temperature * energy(w),
            centre,
            strength=1.0,
            chains=sizes.chains,
            draws=sizes.draws,
            leaps=sizes.leaps,
            seed=0,
        )
        rhat = rank_normalised_rhat(chains.energies)
        return {
            "means": chains.energies.mean(0),
            "rhat": torch.tensor(rhat, dtype=torch.float64),
            "accepted": torch.tensor(chains.accepted, dtype=torch.float64),
        }

    name = "-".join(map(str, widths)) + f"-rank-{rank}"
    return run.arrays(f"learning/{name}", key, job)


def distance(widths: Sequence[int], rank: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """(K of many networks, (num, n) -> (num,); the most singular truth, (n,)).

    K(w) = |W_L ... W_1 - A|²/2 is the Kullback-Leibler divergence of Gaussian noise of variance 1
    with inputs of covariance I. At the centre every layer has the rank of A, which makes the
    coefficient the smallest that there is on the set of truths.
    """
    shapes = [(widths[i + 1], widths[i]) for i in range(len(widths) - 1)]
    parts = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    for part in parts:
        part[:rank, :rank] = torch.eye(rank, dtype=torch.float64)
    sizes = [a * b for a, b in shapes]

    def product(layers: Sequence[Tensor]) -> Tensor:
        out = layers[0]
        for layer in layers[1:]:
            out = layer @ out
        return out

    A = product(parts)

    def energy(w: Tensor) -> Tensor:
        layers = [x.reshape(-1, *s) for x, s in zip(w.split(sizes, dim=1), shapes, strict=True)]
        return (product(layers) - A).square().sum((1, 2)) / 2

    return energy, torch.cat([part.flatten() for part in parts])


def row(truth: Truth, chains: Arrays, t: float) -> dict[str, float | str]:
    """What was found and what the closed form says.

    E[t K] = λ - (m - 1)/log t + ..., from Z(t) ~ c t^-λ (log t)^(m-1) (Watanabe 2009).
    """
    widths, rank = truth
    exact, multiplicity = aoyagi.deep(widths, rank)
    mean, half = interval(chains["means"])
    return {
        "name": f"{'-'.join(map(str, widths))}, rank {rank}",
        "estimate": mean,
        "half": half,
        "exact": exact,
        "multiplicity": multiplicity,
        "expected": exact - (multiplicity - 1) / math.log(t),
        "regular": sum(widths[i] * widths[i + 1] for i in range(len(widths) - 1)) / 2,
        "rhat": float(chains["rhat"]),
    }


def _off(row: dict[str, float | str]) -> float:
    """How far the estimate is from what t leads to expect, less its interval, in units of that."""
    return max(0.0, abs(row["estimate"] - row["expected"]) - row["half"]) / row["expected"]


def agrees(rows: list[dict[str, float | str]]) -> Claim:
    """Yes if every 95 % interval, widened by 3 %, holds what the closed form says for this t.

    In part if three of four do. Undecided if the chains of more than a fourth have not mixed.
    """
    good = [_off(row) <= SLACK for row in rows]
    mixed = [row["rhat"] <= AGREE for row in rows]
    share = sum(good) / len(good)
    holds = YES if share == 1 else PARTLY if share >= 0.75 else NO
    if sum(mixed) < 0.75 * len(mixed):
        holds = "undecided"
    each = tuple(
        f"{r['name']}: {r['estimate']:.3f} ± {r['half']:.3f} against {r['expected']:.3f}"
        for r in rows
    )
    return Claim(
        "A localised sampler finds the learning coefficient of linear networks",
        f"R̂ at most {max(r['rhat'] for r in rows):.3f}; "
        + ("" if holds == NO else "; ".join(each)),
        holds,
        "sagun/singular-fisher",
        each if holds == NO else (),
    )


def below(rows: list[dict[str, float | str]]) -> Claim:
    """Yes if every upper end lies below n/2, what a regular model of as many parameters has."""
    under = [r["estimate"] + r["half"] < r["regular"] for r in rows]
    each = tuple(f"{r['name']} {r['estimate']:.2f} of {r['regular']:g}" for r in rows)
    holds = YES if all(under) else PARTLY if any(under) else NO
    return Claim(
        "Singular models learn as if they had fewer parameters: λ is below n/2",
        "" if holds == NO else "; ".join(each),
        holds,
        "sagun/singular-fisher",
        each if holds == NO else (),
    )


def draw(rows: list[dict[str, float | str]]) -> Figure:
    """Estimates beside the closed form."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    ax = figure.subplots()
    x = range(len(rows))
    ax.errorbar(x, [r["estimate"] for r in rows], yerr=[r["half"] for r in rows], fmt="o", ms=5,
                color=POSITIVE, capsize=3, label="sampled, 95 %")  # fmt: skip
    ax.plot(
        x, [r["exact"] for r in rows], "_", ms=22, mew=2, color=NEGATIVE, label="closed form, λ"
    )
    ax.plot(x, [r["expected"] for r in rows], "_", ms=22, mew=1, color=MARK,
            label="λ - (m - 1)/log t")  # fmt: skip
    ax.plot(x, [r["regular"] for r in rows], "v", mfc="none", color="#8a8f98", label="n/2, regular")
    ax.set_xticks(list(x), [r["name"].replace(", ", "\n") for r in rows], fontsize=8)
    ax.set_ylabel("learning coefficient")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize=8, ncols=2)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def _text(rows: list[dict[str, float | str]], sizes: Sizes) -> str:
    cells = [
        [
            str(r["name"]),
            f"{r['regular']:g}",
            f"{r['exact']:g} ({r['multiplicity']})",
            f"{r['expected']:.3f}",
            f"{r['estimate']:.3f} ± {r['half']:.3f}",
            number(r["rhat"]),
        ]
        for r in rows
    ]
    head = ["network", "n/2", "λ (m)", "expected at this t", "sampled", "R̂"]
    return (
        "The learning coefficient λ says how the volume of parameters with Kullback-Leibler "
        "divergence below ε goes to zero, as ε^λ; n/2 in regular models (Watanabe 2009). For "
        "linear networks it is known in closed form (Aoyagi and Watanabe 2005 for two layers, "
        "Aoyagi 2024 for more). Here it is E[t K] under exp(-t K - |w - w*|²/2) with t = "
        f"{sizes.temperature:g}, by Hamiltonian Monte Carlo with exact acceptance: {sizes.chains} "
        f"chains of {sizes.draws:,} draws, the interval from the scatter of chains. K is exact, so "
        "that no data and no minibatch come in. A multiplicity m above 1 lowers the mean by (m - "
        "1)/log t, slowly. R̂ is rank-normalised (Vehtari et al. 2021).\n\n" + table(head, cells)
    )

"""Spectra by type of block over training, of the Hessian and as Adam sees it."""

from __future__ import annotations

from typing import Any

import torch
from common.claims import NO, PARTLY, YES, Claim, spread, verdict
from common.keeping import Arrays, Run
from common.study import Section, table
from layered.spectra import heterogeneity
from scipy.stats import spearmanr
from torch import Tensor

from transforming import figures
from transforming.looks import TYPES, course

FLAT = 0.01  # of λmax: eigenvalues below are the bulk
TALL = 0.1  # of λmax: eigenvalues above are outliers
MOST = 0.8  # of the seeds
ORDER = (("embedding",), ("query", "key"), ("up", "down"), ("value", "output"), ("norm",))
Looks = list[list[Arrays]]  # a list over steps for each seed


def measure(run: Run, sizes: Any) -> Section:
    """The bulk, the types, and what the preconditioner does to them."""
    looks = [course(run, sizes, seed) for seed in range(sizes.seeds)]
    claims = [bulk(looks, sizes.steps), moving(looks), equal(looks), ordered(looks)]
    numbers = {
        f"seed {i}": {str(s): _numbers(one) for s, one in zip(sizes.steps, row, strict=True)}
        for i, row in enumerate(looks)
    }
    return Section(_text(looks, sizes), claims, figures.course(looks, sizes.steps), numbers)


def _numbers(one: Arrays) -> dict[str, Any]:
    tops = {kind: float(one[f"H/{kind}"][-1]) for kind in TYPES}
    seen = {kind: float(one[f"P/{kind}"][-1]) for kind in TYPES}
    return {"loss": one["loss"], "lambda_max": tops, "as Adam sees it": seen,
            "whole": [float(one["H/whole"][-1]), float(one["P/whole"][-1])]}  # fmt: skip


def flat(one: Arrays) -> float:
    """The share of eigenvalues that are smaller than a hundredth of the largest."""
    values = one["H/whole"].abs() / one["H/whole"].abs().max()
    return float((values < FLAT).double().mean())


def tall(one: Arrays) -> float:
    """The share of eigenvalues above a tenth of the largest."""
    return float((one["H/whole"] > TALL * one["H/whole"].abs().max()).double().mean())


def _over(looks: Looks, i: int, number: Any) -> Tensor:
    return torch.tensor([number(row[i]) for row in looks], dtype=torch.float64)


def bulk(looks: Looks, steps: tuple[int, ...]) -> Claim:
    """Yes if at every look over 80 % of eigenvalues are flat and under 5 % tall, in every seed.

    In part if so at the last look in 4 of 5 seeds.
    """
    count = range(len(steps))
    flats, talls = (torch.stack([_over(looks, i, f) for i in count]) for f in (flat, tall))
    good = (flats > 0.8) & (talls < 0.05)
    words = [f"at step {s} {spread(flats[i])} and {spread(talls[i])}" for i, s in enumerate(steps)]
    always, late = bool(good.all()), float(good[-1].double().mean()) >= MOST
    return Claim(
        "A transformer on text has the bulk at zero and few outliers",
        f"share of |λ| below λmax/100, and of λ above λmax/10: {'; '.join(words)}",
        verdict(always, late),
        "landscapes/bulk-everywhere",
        tuple(words) if not late else (),
    )


def moving(looks: Looks) -> Claim:
    """Yes if, between two looks, the bulk's size changes by a smaller factor than λmax, always.

    The size of the bulk is the median |λ|; in part if so in half of the pairs of looks.
    """
    tops = torch.stack([_over(looks, i, lambda o: o["H/whole"][-1]) for i in range(len(looks[0]))])
    sizes = torch.stack([
        _over(looks, i, lambda o: o["H/whole"].abs().median()) for i in range(len(looks[0]))
    ])  # fmt: skip
    change, bulk_change = (v.log().diff(dim=0).abs() for v in (tops, sizes))
    share = float((bulk_change < change).double().mean())
    words = f"factor {spread(bulk_change.exp())} of the median |λ|, {spread(change.exp())} of λmax"
    return Claim(
        "Over training the bulk stays, and the outliers move",
        f"between one look and the next, {words}; the bulk's is smaller in {share:.0%}",
        verdict(share == 1, share >= 0.5),
        "landscapes/bulk-everywhere",
        tuple(
            f"look {i + 1} to {i + 2}: {spread(bulk_change[i].exp())}, λmax "
            f"{spread(change[i].exp())}" for i in range(len(change))
        ) if share < 0.5 else (),
    )  # fmt: skip


def unequal(one: Arrays, which: str) -> float:
    """λmax of the type with the largest over that of the type with the smallest."""
    tops = torch.stack([one[f"{which}/{kind}"][-1] for kind in TYPES])
    return float(tops.max() / tops.min())


def apart(one: Arrays, which: str) -> float:
    """The mean distance between the spectra of two types, in units of the whole's λmax."""
    return heterogeneity([one[f"{which}/{k}"] for k in TYPES], float(one[f"{which}/whole"][-1]))


def equal(looks: Looks) -> Claim:
    """Yes if Adam's preconditioner makes both numbers smaller in 4 of 5 seeds at the last look.

    In part if one of them.
    """
    pairs = {}
    for name, number in (("λmax over types, largest over smallest", unequal),
                         ("distance between two types", apart)):  # fmt: skip
        pairs[name] = [
            _over(looks, -1, lambda one, n=number, w=which: n(one, w)) for which in ("H", "P")
        ]
    less = [float((p < h).double().mean()) >= MOST for h, p in pairs.values()]
    words = [f"{name} {spread(h)}, preconditioned {spread(p)}" for name, (h, p) in pairs.items()]
    early = [
        f"after the first look {spread(_over(looks, 0, lambda o, w=w: apart(o, w)))} ({w})"
        for w in ("H", "P")
    ]
    return Claim(
        "Adam's preconditioner makes the types of blocks of a transformer alike",
        "; ".join(words),
        verdict(all(less), any(less)),
        tried=(*words, *early) if not any(less) else (),
    )


def sharpness(one: Arrays) -> Tensor:
    """The trace per parameter of the five groups of types of Wang et al. (2025), in their order."""
    joined = [torch.cat([one[f"H/{kind}"] for kind in group]) for group in ORDER]
    return torch.stack([e.mean() for e in joined])


def ordered(looks: Looks) -> Claim:
    """Yes if the last look has their order in 4 of 5 seeds, in part if ranks agree at 0.6."""
    ranks = torch.tensor([
        [float(spearmanr(range(len(ORDER)), sharpness(one)).statistic) for one in row]
        for row in looks
    ])  # fmt: skip
    exact = float((ranks[:, -1] > 0.999).double().mean())
    middle = float(ranks[:, -1].median())
    found = torch.stack([sharpness(row[-1]) for row in looks]).median(0).values
    names = ["embedding", "QK", "MLP", "VO", "norm"]
    words = ", ".join(f"{n} {v:.2g}" for n, v in zip(names, found, strict=True))
    early = [f"look {i + 1}: ranks agree {spread(ranks[:, i])}" for i in range(ranks.shape[1])]
    holds = YES if exact >= MOST else PARTLY if middle >= 0.6 else NO
    return Claim(
        "Mean curvature rises from embedding over QK, MLP and VO to LayerNorm (Wang et al. 2025)",
        f"trace per parameter at the last look: {words}; rank correlation {spread(ranks[:, -1])}",
        holds,
        tried=tuple(early) if holds == NO else (),
    )


def _text(looks: Looks, sizes: Any) -> str:
    rows = []
    for i, steps in enumerate(sizes.steps):
        cells = [_over(looks, i, lambda o: o["loss"]), _over(looks, i, lambda o: o["H/whole"][-1]),
                 _over(looks, i, lambda o: o["H/whole"].sum()),
                 _over(looks, i, lambda o: (o["H/whole"] < 0).double().mean()),
                 _over(looks, i, lambda o: sizes.lr * o["P/whole"][-1])]  # fmt: skip
        rows.append([str(steps), *(spread(c) for c in cells)])
    head = ["steps", "loss", "λmax", "trace", "share of λ < 0", "lr λmax(P⁻¹H); Adam's edge is 38"]
    last = [
        [kind, str(len(looks[0][0][f"H/{kind}"])),
         *(spread(_over(looks, i, lambda o, k=kind: o[f"H/{k}"][-1])) for i in (0, -1)),
         spread(_over(looks, -1, lambda o, k=kind: o[f"H/{k}"].mean())),
         spread(_over(looks, -1, lambda o, k=kind: sizes.lr * o[f"P/{k}"][-1]))]
        for kind in TYPES
    ]  # fmt: skip
    types = ["type", "parameters", f"λmax after {sizes.steps[0]}", f"after {sizes.steps[-1]}",
             "trace per parameter", "lr λmax(P⁻¹H)"]  # fmt: skip
    n = len(looks[0][0]["H/whole"])
    return f"""\
{sizes.depth} blocks of width {sizes.width} with two heads and a fused weight of queries, keys and
values, {n:,} parameters in all; {sizes.sequences} pieces of {sizes.length} characters, of which
{sizes.symbols} kinds are told apart. Adam on the full batch, lr {sizes.lr:g}. H is assembled, so
that all eigenvalues are exact; queries, keys and values are `H.submatrix(rows)` of the fused
weight. Each type takes the parameters of both blocks together.

{table(head, rows)}

{table(types, last)}"""

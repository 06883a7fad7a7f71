"""784-10-10-10 on random inputs and on digits, driven towards the norm that the paper names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from common.claims import NO, Claim, number, spread, verdict
from common.data import digest, digits, like
from common.keeping import Arrays, Run
from common.seeds import over, scalar
from common.study import Section, table
from common.style import NEGATIVE, POSITIVE
from matplotlib.figure import Figure
from sagun import claims, networks
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from driven import lbfgs
from driven.newton import Field
from driven.sizes import NAMED, Sizes

BETAS = (10.0, 30.0, 100.0, 300.0, 1e3)
PRODUCTS = 50  # a Newton step
SHARP = 37.0  # β z from which softplus is z to the last bit
COLOURS = {"digits": POSITIVE, "random inputs": NEGATIVE}


def measure(run: Run, s: Sizes) -> Section:
    """The same trainer from the same starts on both."""
    X, y = digits(examples=s.examples, pool=s.pool)
    data = {"digits": (X, y), "random inputs": like(X, 1)}
    found = {
        name: over(
            run, f"wide/{name}", (s.width, s.wide_lbfgs, s.pairs, digest(*each)),
            range(s.wide_seeds), partial(_one, each, s),
        )
        for name, each in data.items()
    }  # fmt: skip
    return Section(_text(found, s), judged(found), _draw(found), dict(found))


def _one(data: tuple[Tensor, Tensor], s: Sizes, seed: int) -> Arrays:
    X, y = data
    layers = (X.shape[1], s.width, s.width, 10)
    model = networks.starts(layers, 1, 0.1, seed).member(0)
    beta = driven(model, Field(layers, X, y, "cross_entropy"), s)
    problem = hs.Problem(model, F.cross_entropy, data)
    top = hs.eigsh(hs.Hessian(problem), k=s.pairs, which="LA", tol=1e-4)
    low = hs.eigsh(hs.Hessian(problem), k=1, which="SA", tol=1e-2)
    loss, norm = _at(model, data)
    return {
        "beta": scalar(beta), "loss": scalar(loss), "norm": scalar(norm),
        "length": problem.theta.norm(), "tops": top.eigenvalues.double(),
        "lowest": low.eigenvalues[0].double(),
    }  # fmt: skip


def driven(model: nn.Sequential, field: Field, s: Sizes) -> float:
    """Moves the model until its gradient is below NAMED; β of the last smoothing, 0 for none."""
    data = (field.X, field.t)
    lbfgs.descend(model, field, s.wide_lbfgs, NAMED)
    for beta in BETAS:
        if _at(model, data)[1] < NAMED:
            return 0.0 if beta == BETAS[0] else BETAS[BETAS.index(beta) - 1]
        smooth = nn.Sequential(
            *(m if isinstance(m, nn.Linear) else nn.Softplus(beta, SHARP) for m in model)
        )
        lbfgs.descend(smooth, field, s.wide_lbfgs, NAMED / 10)
        newton(smooth, data, s.wide_newton)
    return BETAS[-1]


def newton(model: nn.Sequential, data: tuple[Tensor, Tensor], steps: int) -> None:
    """Some saddle-free Newton steps in the Krylov space of the gradient."""
    optimizer = hs.optim.SaddleFreeNewton(
        hs.Problem(model, F.cross_entropy, data), damping=1e-3, max_matvecs=PRODUCTS
    )
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(data[0]), data[1]).backward()
        if torch.cat([p.grad.flatten() for p in model.parameters()]).norm() < NAMED / 10:
            return
        optimizer.step()


def _at(model: nn.Sequential, data: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """The loss and the norm of its gradient."""
    problem = hs.Problem(model, F.cross_entropy, data)
    return float(F.cross_entropy(model(data[0]), data[1]).detach()), float(
        problem.gradient().norm()
    )


def judged(found: dict[str, Arrays]) -> Sequence[Claim]:
    """Whether the norm was reached, and whether the top differs then."""
    kinds = ["digits", "random inputs"]
    tops = [found[kind]["tops"] for kind in kinds]
    where = f"784-10-10-10, where these trainers end, {len(tops[0])} starts"
    return [
        reaches(found["random inputs"]),
        largest(kinds, [t[:, 0] for t in tops], where),
        shape(kinds, [t[:, 0] / t[:, -1] for t in tops], tops[0].shape[1], where),
        negative(found["random inputs"]),
    ]


def reaches(f: Arrays) -> Claim:
    """Holds if every start gets below NAMED; in part if most do."""
    share = float((f["norm"] < NAMED).double().mean())
    tried = tuple(f"start {i}: {float(norm):.1e}" for i, norm in enumerate(f["norm"]))
    holds = verdict(share == 1, share > 0.5)
    return Claim(
        "On random inputs 784-10-10-10 can be trained until the gradient is close to zero",
        f"below {NAMED:g} in {share:.0%}: norm {spread(f['norm'])}, loss {spread(f['loss'])}",
        holds,
        "sagun/random-inputs",
        tried if holds == NO else (),
    )


def largest(kinds: Sequence[str], tops: Sequence[Tensor], where: str) -> Claim:
    """By the rule of figure 2's page: ranges that are apart, or in part medians that differ 2x."""
    row = claims.data_matter(kinds, tops, where)
    each = tuple(
        f"start {i}: {float(a):.3g} and {float(b):.3g}"
        for i, (a, b) in enumerate(zip(*tops, strict=True))
    )
    tried = each if row.holds == NO else ()
    return replace(row, statement="sagun/random-inputs", tried=tried)


def shape(kinds: Sequence[str], ratios: Sequence[Tensor], k: int, where: str) -> Claim:
    """Holds if the ranges of λ1/λk are apart; in part if medians differ twofold."""
    low, high = sorted(ratios, key=lambda r: float(r.median()))
    apart = float(low.max()) < float(high.min())
    text = tuple(f"{kind}: {spread(r)}" for kind, r in zip(kinds, ratios, strict=True))
    holds = verdict(apart, float(high.median()) > 2 * float(low.median()))
    return Claim(
        f"The top has another shape, too: λ1 against the {k}th eigenvalue ({where})",
        "; ".join(text),
        holds,
        "sagun/random-inputs",
        tuple(f"start {i}: {float(a):.3g} and {float(b):.3g}"
              for i, (a, b) in enumerate(zip(*ratios, strict=True))) if holds == NO else (),
    )  # fmt: skip


def negative(f: Arrays) -> Claim:
    """Holds if a Ritz value, never below λmin, is below -1e-10 λ1 in every start; part: most."""
    below = f["lowest"] < -1e-10 * f["tops"][:, 0]
    holds = verdict(bool(below.all()), bool(below.double().mean() > 0.5))
    size = f["lowest"].abs() / f["tops"][:, 0]
    return Claim(
        "Negative eigenvalues remain on random inputs, small in size",
        f"λmin negative in {float(below.double().mean()):.0%}; |λmin|/λmax {spread(size)}",
        holds,
        "sagun/critical",
        tuple(number(float(x)) for x in f["lowest"]) if holds == NO else (),
    )


def _text(found: dict[str, Arrays], s: Sizes) -> str:
    rows = [
        [name, f"{int((f['norm'] < NAMED).sum())} of {len(f['norm'])}", spread(f["norm"]),
         spread(f["loss"]), spread(f["tops"][:, 0]), spread(f["tops"][:, -1]),
         spread(f["lowest"]), spread(f["length"]), ", ".join(f"{b:g}" for b in f["beta"])]
        for name, f in found.items()
    ]  # fmt: skip
    head = ["data", f"below {NAMED:g}", "gradient norm", "loss", "λ1", f"λ{s.pairs}", "λmin",
            "norm of θ", "last β"]  # fmt: skip
    return (
        "Random inputs are Gaussian with the mean and the variance of all pixels, labels uniform, "
        "as in [figure 2](sagun2016.md), where gradient descent was still at a norm of 0.0009 to "
        f"0.004 after 20,000 steps. Here torch's L-BFGS goes first, at most {s.wide_lbfgs} "
        "iterations; then, until the network of ReLU is below the norm, the same on kinks rounded "
        "with a growing β, followed by steps of `hs.optim.SaddleFreeNewton`. *Last β*: 0 where "
        "L-BFGS on ReLU was enough. A last β of 1,000 with a "
        "larger norm: the steps were spent before the norm was reached.\n\n" + table(head, rows)
    )


def _draw(found: dict[str, Arrays]) -> Figure:
    """The largest eigenvalues of every start."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    ax = figure.subplots()
    for kind, f in found.items():
        ranks = range(1, f["tops"].shape[1] + 1)
        for i, row in enumerate(f["tops"]):
            ax.plot(ranks, row, "o-", ms=3, lw=0.9, color=COLOURS[kind], alpha=0.8,
                    label=kind if i == 0 else None)  # fmt: skip
    ax.set_xticks(list(ranks)[:: max(1, len(ranks) // 10)])
    ax.set(yscale="log", xlabel="rank from the top", ylabel="eigenvalue")
    ax.set_title("where the trainers end; a line for each start", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return figure

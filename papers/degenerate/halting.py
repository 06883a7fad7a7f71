"""Halting times: do they have one distribution whatever the start and the network?"""

from __future__ import annotations

from itertools import combinations

import torch
from common.claims import NO, PARTLY, YES, Claim, number
from common.data import blobs
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE
from matplotlib.figure import Figure
from scipy.stats import gumbel_r, ks_2samp, norm
from torch import Tensor

import hesscope as hs
from degenerate.settings import Sizes

LAWS = "uniform", "normal", "signs"
NETWORKS = {"blobs": (2, 6, 6, 2), "teacher": (3, 5, 1)}
TOLERANCE = {"blobs": 2e-2, "teacher": 2e-2}  # gradient norm at which a run halts
SCALE = {"blobs": 0.5, "teacher": 1.0}  # deviation of initial parameters
RATE = {"blobs": 0.2, "teacher": 0.1}
ROWS, COLUMNS = 60, 30  # of random matrices
HALTS = 1e-3  # gradient norm of least squares
SURE = 0.01  # p-value below which two distributions differ


def measure(run: Run, sizes: Sizes) -> Section:
    """Networks and, as a control, least squares with random matrices."""
    key = (sizes.networks, sizes.halting_steps, sizes.matrices)
    found = run.arrays("halting", key, lambda: _times(sizes))
    times = {name: normalised(steps[steps > 0]) for name, steps in found.items()}
    p = {kind: _pairs(times, kind) for kind in (*NETWORKS, "least squares")}
    across = _across(times)
    return Section(_text(found, times), [universal(p, across)], draw(times))


def _times(sizes: Sizes) -> Arrays:
    """Steps of each kind and law, (runs,); 0 for those that have not halted."""
    found = {}
    for kind, layers in NETWORKS.items():
        X, T, loss, activation = _data(kind)
        for i, law in enumerate(LAWS):
            n = hs.ensemble.networks.num_parameters(layers)
            theta = SCALE[kind] * drawn(law, (sizes.networks, n), seed=20 + i)
            start = hs.ensemble.Ensemble(layers, activation, theta)
            run = hs.ensemble.train(
                start,
                X,
                T,
                loss=loss,
                lr=RATE[kind],
                steps=sizes.halting_steps,
                tolerance=TOLERANCE[kind],
            )
            halted = run.gradient_norms < TOLERANCE[kind]
            found[f"{kind}, {law}"] = torch.where(halted, run.steps, 0)
    for i, law in enumerate(LAWS):
        found[f"least squares, {law}"] = least_squares(law, sizes.matrices, 30 + i)
    return found


def _data(kind: str) -> tuple[Tensor, Tensor, str, str]:
    """Inputs, targets, loss and activation."""
    if kind == "blobs":
        return *blobs(100, 0.5), "cross_entropy", "relu"
    generator = torch.Generator().manual_seed(21)
    X = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    W = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    return X, torch.tanh(X @ W).sum(1, keepdim=True), "mse", "tanh"


def drawn(law: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Independent entries of mean 0 and variance 1."""
    generator = torch.Generator().manual_seed(seed)
    if law == "normal":
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    u = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (2 * u - 1) * 3**0.5 if law == "uniform" else torch.where(u < 0.5, -1.0, 1.0).double()


def least_squares(law: str, num: int, seed: int) -> Tensor:
    """Steps of descent on |A x - b|²/(2 rows) with random A and normal b, from 0, to HALTS."""
    A = drawn(law, (num, ROWS, COLUMNS), seed)
    b = drawn("normal", (num, ROWS, 1), seed + 100)
    H, c = A.mT @ A / ROWS, A.mT @ b / ROWS
    x, steps = torch.zeros_like(c), torch.zeros(num, dtype=torch.long)
    rate = 0.3  # the largest eigenvalue is about 2.9
    for step in range(1, 3_000):
        g = H @ x - c
        fresh = (g.flatten(1).norm(dim=1) < HALTS) & (steps == 0)
        steps[fresh] = step
        if bool((steps > 0).all()):
            break
        x = x - rate * g
    return steps


def normalised(steps: Tensor) -> Tensor:
    """Of mean 0 and variance 1."""
    x = steps.double()
    return (x - x.mean()) / x.std()


def _pairs(times: dict[str, Tensor], kind: str) -> dict[str, float]:
    """p-values of the two-sample test of Kolmogorov and Smirnov between laws."""
    return {
        f"{a} and {b}": float(ks_2samp(times[f"{kind}, {a}"], times[f"{kind}, {b}"]).pvalue)
        for a, b in combinations(LAWS, 2)
    }


def _across(times: dict[str, Tensor]) -> dict[str, float]:
    """The same between kinds, all laws together."""
    kinds = {
        kind: torch.cat([times[f"{kind}, {law}"] for law in LAWS])
        for kind in (*NETWORKS, "least squares")
    }
    return {
        f"{a} and {b}": float(ks_2samp(kinds[a], kinds[b]).pvalue)
        for a, b in combinations(kinds, 2)
    }


def universal(p: dict[str, dict[str, float]], across: dict[str, float]) -> Claim:
    """Yes if no test tells normalised times apart, between laws of the start nor between networks.

    Bonferroni's p of at least 0.01. In part if laws do not matter but networks do, or laws do not
    matter in one of the networks at least. No if laws matter in all of them.
    """
    laws = {kind: min(ps.values()) * len(ps) >= SURE for kind, ps in p.items()}
    nets = [laws[kind] for kind in NETWORKS]
    same = min(across.values()) * len(across) >= SURE
    holds = YES if all(nets) and same else PARTLY if any(nets) else NO
    each = tuple(
        f"{kind}: " + ", ".join(f"{pair} {number(value)}" for pair, value in ps.items())
        for kind, ps in p.items()
    )
    others = ", ".join(f"{pair} {number(value)}" for pair, value in across.items())
    return Claim(
        "Halting times have a universal distribution",
        "p-values between normalised halting times: of three laws of the "
        f"start{' or the matrix' if each else ''}, "
        + ("" if holds == NO else "; ".join(each))
        + f"; between kinds, {others}",
        holds,
        "sagun/halting-times",
        each if holds == NO else (),
    )


def skewness(x: Tensor) -> float:
    """0 of the normal distribution, 1.14 of Gumbel's."""
    return float(x.pow(3).mean() / x.square().mean() ** 1.5)


def draw(times: dict[str, Tensor]) -> Figure:
    """Normalised histograms with the normal and Gumbel's density."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    x = torch.linspace(-3, 5, 200)
    for ax, kind in zip(
        figure.subplots(1, 3, sharey=True), (*NETWORKS, "least squares"), strict=True
    ):
        for law, colour in zip(LAWS, (POSITIVE, NEGATIVE, MARK), strict=True):
            ax.hist(times[f"{kind}, {law}"].numpy(), bins=28, range=(-3, 5), density=True,
                    histtype="step", color=colour, lw=1.3, label=law)  # fmt: skip
        ax.plot(x, norm.pdf(x), "k:", lw=1, label="normal")
        scale = 6**0.5 / torch.pi
        ax.plot(x, gumbel_r.pdf(x, loc=-0.5772 * scale, scale=scale), "k--", lw=1, label="Gumbel")
        ax.set_title(kind, fontsize=10)
        ax.set_xlabel("(steps - mean) / deviation")
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("density")
    return figure


def _text(found: Arrays, times: dict[str, Tensor]) -> str:
    rows = [
        [
            name,
            f"{int((steps > 0).sum())} of {len(steps)}",
            number(float(steps[steps > 0].double().mean())),
            number(float(steps[steps > 0].double().std())),
            f"{skewness(times[name]):.2f}",
        ]
        for name, steps in found.items()
    ]
    head = ["kind and law", "halted", "mean steps", "deviation", "skewness"]
    return (
        "Steps of gradient descent until the gradient norm is below a tolerance, less their mean, "
        "over their deviation. Initial parameters are uniform, normal or random signs, of one "
        "variance: blobs are 2-6-6-2 ReLU networks, teacher 3-5-1 tanh ones. The control is least "
        "squares with random matrices of these entries, for which universality is known (Deift, "
        "Menon, Olver and Trogdon 2014). Skewness is 0 of a normal distribution and 1.14 of "
        "Gumbel's.\n\n" + table(head, rows)
    )

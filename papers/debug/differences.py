"""Products and whole Hessians from differences of gradients, with all differences h."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from common.claims import NO, PARTLY, YES, Claim, number, spread, verdict
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import NEGATIVE, POSITIVE, ZERO
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs

PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
KINDS = {"one-sided": True, "central": False}
GOOD = {"float64": 1e-5, "float32": 3e-2}  # relative errors that are good enough


def measure(run: Run, sizes: Any) -> Section:
    """Errors of products over h, and the whole Hessian four ways."""
    found = {
        precision: run.arrays(
            f"differences/{precision}",
            (sizes.seeds, sizes.differences),
            lambda precision=precision: scanned(precision, sizes.seeds, sizes.differences),
        )
        for precision in PRECISIONS
    }
    whole = run.arrays(
        "differences/whole",
        sizes.whole,
        lambda: {"rows": torch.tensor([wholes(w) for w in sizes.whole])},
    )
    claims = [works(found), better(found), smaller(found), entire(whole["rows"])]
    return Section(text(found, whole["rows"]), claims, draw(found))


def problem(width: int, dtype: torch.dtype, seed: int) -> hs.Problem:
    """A perceptron 6-w-w-3 (tanh) on 50 points; the same numbers in both precisions."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)
    )
    X, y = torch.randn(50, 6), torch.randint(3, (50,))
    return hs.Problem(model.to(dtype), F.cross_entropy, (X.to(dtype), y))


def scanned(precision: str, seeds: int, steps: tuple[float, ...]) -> Arrays:
    """Relative errors by kind, (h, seed), along random directions, and these h."""
    errors: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    chosen: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for seed in range(seeds):
        rounded, exact = problem(10, PRECISIONS[precision], seed), problem(10, torch.float64, seed)
        v = torch.randn(exact.n, generator=torch.Generator().manual_seed(seed)).double()
        Hv = hs.Hessian(exact) @ v
        for kind, one_sided in KINDS.items():
            found = [
                relative(hs.Hessian(rounded, hs.CentralDifference(h, one_sided)), v, Hv)
                for h in steps
            ]
            errors[kind].append(found)
            chosen[kind].append(
                relative(hs.Hessian(rounded, hs.CentralDifference(None, one_sided)), v, Hv)
            )
    return {
        "h": torch.tensor(steps, dtype=torch.float64),
        **{kind: torch.tensor(rows).T.contiguous() for kind, rows in errors.items()},
        **{f"chosen {kind}": torch.tensor(rows) for kind, rows in chosen.items()},
    }


def relative(H: hs.Hessian, v: Tensor, exact: Tensor) -> float:
    """The error of H v over |H v|."""
    return float(((H @ v.to(H.dtype)).double() - exact).norm() / exact.norm())


def wholes(width: int) -> list[float]:
    """n; then of both differences, of exact products and of the closed form error and seconds."""
    at = problem(width, torch.float64, 0)
    exact = hs.Hessian(at, "forward-over-reverse").to_dense()
    row = [float(at.n)]
    for product in (hs.CentralDifference(None, True), hs.CentralDifference(), "ror", "auto"):
        H = hs.Hessian(at, product)
        H @ torch.ones(at.n).double()  # chooses the step
        began = time.process_time()
        dense = H.to_dense()
        row += [float((dense - exact).norm() / exact.norm()), time.process_time() - began]
    return row


def works(found: dict[str, Arrays]) -> Claim:
    """YES if the best h has a GOOD error in each seed for both kinds, PARTLY if for one."""
    fine = {kind: all(bool((part[kind].min(0).values < GOOD[p]).all()) for p, part in found.items())
            for kind in KINDS}  # fmt: skip
    told = "; ".join(
        f"{kind}, {p} {spread(part[kind].min(0).values)}, at the h that hs chooses "
        f"{spread(part['chosen ' + kind])}"
        for p, part in found.items()
        for kind in KINDS
    )
    return Claim(
        "Differences of gradients give Hessian-vector products",
        f"relative error at the best h: {told}",
        verdict(all(fine.values()), any(fine.values())),
        "debugging/one-sided",
        () if any(fine.values()) else ("float64", "float32", "the best of 24 h"),
    )


def better(found: dict[str, Arrays]) -> Claim:
    """YES if central differences err less at their best h in each seed and precision.

    PARTLY if in the median.
    """
    gains = {
        p: part["one-sided"].min(0).values / part["central"].min(0).values
        for p, part in found.items()
    }
    always = all(bool((gain > 1).all()) for gain in gains.values())
    return Claim(
        "Central differences are better than one-sided ones, and by far",
        "error of one-sided over that of central, each at its best h: "
        + "; ".join(f"{p} {spread(gain)}" for p, gain in gains.items())
        + "; a central one takes two gradients, a one-sided one",
        verdict(always, all(float(gain.median()) > 1 for gain in gains.values())),
        "debugging/one-sided",
        ()
        if all(float(g.median()) > 1 for g in gains.values())
        else ("float64", "float32", "24 h"),
    )


def best_step(part: Arrays, kind: str) -> Tensor:
    """The h with the least median error."""
    return part["h"][part[kind].median(1).values.argmin()]


def slope(h: Tensor, errors: Tensor) -> float:
    """Of log error over log h between 10 and 1,000 times the best h, or up to 0.1, by medians."""
    middle = errors.median(1).values
    best = int(middle.argmin())
    inside = [i for i in range(best - 6, best - 1) if i >= 0 and h[i] <= 0.1]
    if len(inside) < 2:
        return math.nan
    first, last = inside[0], inside[-1]
    return math.log(float(middle[first] / middle[last])) / math.log(float(h[first] / h[last]))


def power(found: float) -> str:
    """In words."""
    return "in too few steps to tell how" if math.isnan(found) else f"as h^{found:.2f}"


def smaller(found: dict[str, Arrays]) -> Claim:
    """YES if in each seed, kind and precision both ends of h err ten times more than the best.

    PARTLY if in the median.
    """
    sides = [
        torch.stack([part[kind][0], part[kind][-1]]) / part[kind].min(0).values
        for part in found.values()
        for kind in KINDS
    ]
    told = "; ".join(
        f"{kind}, {p}: best at h = {number(float(best_step(part, kind)))}, "
        f"above it the error grows {power(slope(part['h'], part[kind]))}"
        for p, part in found.items()
        for kind in KINDS
    )
    always = all(bool((side > 10).all()) for side in sides)
    middle = all(bool((side.median(1).values > 10).all()) for side in sides)
    return Claim(
        "A smaller h is nearer to the derivative until rounding takes over",
        told,
        verdict(always, middle),
        "debugging/small-difference",
        () if middle else ("float64", "float32", "one-sided and central"),
    )


def entire(rows: Tensor) -> Claim:
    """YES if both kinds of difference give whole Hessians to 1e-5 at all sizes, PARTLY if one."""
    one, two = rows[:, 1], rows[:, 3]
    fine = [bool((x < 1e-5).all()) for x in (one, two)]
    most = rows[-1]
    return Claim(
        "The whole Hessian can be had by differences along unit vectors",
        f"relative error one-sided {spread(one)}, central {spread(two)}; for n = {int(most[0]):,} "
        "in "
        f"{number(float(most[2]))} and {number(float(most[4]))} processor seconds, by exact "
        "products in "
        f"{number(float(most[6]))}, in closed form in {number(float(most[8]))}",
        YES if all(fine) else PARTLY if any(fine) else NO,
        "debugging/whole-by-differences",
        () if any(fine) else ("one-sided", "central", "three sizes"),
    )


def text(found: dict[str, Arrays], rows: Tensor) -> str:
    """The table of whole Hessians."""
    ways = ("one-sided", "central", "exact products", "closed form")
    head = ["n", *(f"{way}: {what}" for way in ways for what in ("error", "seconds"))]
    cells = [[f"{int(row[0]):,}", *(number(float(x)) for x in row[1:])] for row in rows]
    seeds = found["float64"]["central"].shape[1]
    return (
        f"Perceptrons 6-10-10-3 (tanh, {problem(10, torch.float64, 0).n} parameters) on 50 points "
        "at "
        f"{seeds} random θ, a random direction v of length one each; the truth is the exact "
        "product in "
        "float64. With third derivatives T, fourth ones Q and gradients that err by ε, the errors "
        "are "
        "about h/2 |T[v, v]| + 2ε/h for (g(θ + hv) - g(θ))/h and h²/6 |Q[v, v, v]| + ε/h for "
        "(g(θ + hv) - g(θ - hv))/2h, so the best h are near ε^(1/2) and ε^(1/3). "
        "`hs.Hessian(problem, hs.CentralDifference(h, one_sided=True))` is the operator of the "
        "first, "
        f"and its `to_dense()` takes n products along unit vectors:\n\n{table(head, cells)}"
    )


def draw(found: dict[str, Arrays]) -> Figure:
    """Errors over h, a panel for each precision."""
    figure, axes = plt.subplots(1, len(found), figsize=(9.5, 3.5), sharey=True)
    for ax, (precision, part) in zip(axes, found.items(), strict=True):
        for kind, color in zip(KINDS, (NEGATIVE, POSITIVE), strict=True):
            ax.plot(part["h"], part[kind].clamp(min=1e-14), color=color, lw=0.8, alpha=0.5)
            ax.plot(part["h"], part[kind].median(1).values, color=color, lw=1.8, label=kind)
            ax.axhline(float(part["chosen " + kind].median()), color=color, lw=1, ls=":")
        ax.plot([], [], color=ZERO, lw=1, ls=":", label="at the h that hs chooses")
        ax.set(xscale="log", yscale="log", xlabel="h", ylim=(1e-12, 1e3), title=precision)
    axes[0].set_ylabel("relative error of H v")
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    figure.tight_layout()
    return figure

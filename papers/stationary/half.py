"""Is a point a minimum with probability 1/2ⁿ, and is every high critical point a saddle?"""

from __future__ import annotations

import math

import torch
from common.claims import NO, PARTLY, YES, Claim, number, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import NEGATIVE, POSITIVE, ZERO
from matplotlib.figure import Figure
from scipy.stats import binom

from stationary import finder, points
from stationary.networks import Setting, setting
from stationary.settings import Sizes

LARGE = 20  # parameters, from which "exponentially unlikely" is held against a share of 1 %
ABOVE = 1e-4  # of the range of losses, from which a point is above the lowest


def measure(run: Run, sizes: Sizes) -> Section:
    """Random points, critical points, and critical points of students of growing width."""
    anywhere = {
        name: run.arrays(
            f"random/{name}",
            (setting(name).words, sizes.random_points),
            lambda name=name: _random(setting(name), sizes),
        )
        for name in sizes.networks
    }
    counts = {name: counted(_with_minima(run, sizes, name)) for name in sizes.networks}
    for k in sizes.widths:
        counts[f"teacher, width {k}"] = counted(_student(run, sizes, k))
    claims = [half_to_n(counts), signs(anywhere), high_ones(counts)]
    return Section(
        _text(anywhere, counts, sizes.descents), claims, draw(counts), {"counts": counts}
    )


def _random(on: Setting, sizes: Sizes) -> Arrays:
    """All eigenvalues at random starts."""
    return {"eigenvalues": torch.linalg.eigvalsh(on.hessians(on.starts(sizes.random_points, 1)))}


def _with_minima(run: Run, sizes: Sizes, name: str) -> Arrays:
    """The critical points of a setting, and those that descents go to."""
    on, found = setting(name), points.found(run, sizes, name)
    key = (on.words, sizes.descents, sizes.iterations)
    ends = run.arrays(f"minima/{name}", key, lambda: points.descents(on, sizes))
    return points.sure({key: torch.cat([found[key], ends[key]]) for key in ends})


def _student(run: Run, sizes: Sizes, width: int) -> Arrays:
    """Critical points of students of one width, from starts, some training, and descents."""
    on, num = setting("teacher").with_width(width), sizes.width_starts

    def job() -> Arrays:
        third = num // 3
        starts = on.starts(num, seed=2)
        for i, steps in enumerate(sizes.width_steps):
            rows = slice(i * third, (i + 1) * third)
            starts[rows] = on.trained(starts[rows], steps).ensemble.theta
        found = finder.described(
            on.field, starts, finder.search(on.field, starts, sizes.iterations)
        )
        ends = points.descents(on, sizes)
        return {key: torch.cat([found[key], ends[key]]) for key in ends}

    key = (on.words, width, num, sizes.width_steps, sizes.descents, sizes.iterations)
    return points.sure(run.arrays(f"width/{width}", key, job))


def counted(found: Arrays) -> dict[str, float]:
    """Distinct critical points, those that are minima, and the same above the lowest."""
    losses, values = found["loss"], found["eigenvalues"]
    minimum = finder.index(values) == 0
    low, high = (float(x) for x in (losses.min(), losses.max())) if len(losses) else (0.0, 0.0)
    above = losses > low + ABOVE * (high - low)
    return {
        "n": values.shape[1],
        "points": len(losses),
        "minima": int(minimum.sum()),
        "above": int(above.sum()),
        "minima above": int((minimum & above).sum()),
    }


def half_to_n(counts: dict[str, dict[str, float]]) -> Claim:
    """Yes if the number of minima agrees with 1/2ⁿ in every setting: two-sided p of at least 0.01.

    No if it disagrees in three settings or more, else in part.
    """
    off, each = [], []
    for name, c in counts.items():
        expected = c["points"] / 2 ** c["n"]
        if luck(c["minima"], c["points"], 0.5 ** c["n"]) < 0.01:
            off.append(name)
        if c["minima"]:
            each.append(f"{name}: {c['minima']} of {c['points']}, expected {number(expected)}")
    holds = YES if not off else NO if len(off) >= 3 else PARTLY
    measured = (
        f"more minima among critical points than that in {len(off)} of {len(counts)} settings"
    )
    if holds != NO:
        measured += f": {'; '.join(each)}"
    text = "A critical point is a minimum with probability 1/2ⁿ"
    return Claim(text, measured, holds, "debugging/half-to-n", tuple(each) if holds == NO else ())


def luck(minima: float, total: float, chance: float) -> float:
    """Two-sided p-value of the binomial test, as twice the smaller tail."""
    low, high = binom.cdf(minima, total, chance), binom.sf(minima - 1, total, chance)
    return min(1.0, 2 * float(min(low, high)))


def signs(anywhere: dict[str, Arrays]) -> Claim:
    """Yes where half of the curvatures, 0.45 to 0.55, are negative at random points everywhere.

    In part if that is so in some setting.
    """
    shares = {name: finder.share(f["eigenvalues"]) for name, f in anywhere.items()}
    half = [0.45 <= float(share.median()) <= 0.55 for share in shares.values()]
    each = tuple(f"{name} {spread(share)}" for name, share in shares.items())
    holds = YES if all(half) else PARTLY if any(half) else NO
    return Claim(
        "A curvature at a random point is negative as often as positive, as 1/2ⁿ supposes",
        f"share of negative ones among those that are not zero: {', '.join(each)}",
        holds,
        "debugging/half-to-n",
        each if holds == NO and len(each) >= 3 else (),
    )


def high_ones(counts: dict[str, dict[str, float]]) -> Claim:
    """Yes if no minimum above the lowest was found wherever n is 20 or more, by descent or search.

    In part if fewer than half of the critical points above the lowest are minima, in each of these.
    """
    large = {name: c for name, c in counts.items() if c["n"] >= LARGE and c["above"]}
    shares = [c["minima above"] / c["above"] for c in large.values()]
    each = tuple(
        f"{n} (n = {c['n']}): {c['minima above']} of {c['above']}" for n, c in large.items()
    )
    holds = YES if not any(shares) else PARTLY if max(shares) < 0.5 else NO
    measured = "minima among critical points above the lowest"
    measured += "" if holds == NO else f", {'; '.join(each)}"
    text = "Critical points above the lowest are saddles: all curvatures are hardly ever positive"
    return Claim(text, measured, holds, "landscapes/all-positive", each if holds == NO else ())


def draw(counts: dict[str, dict[str, float]]) -> Figure:
    """The share of minima against n, with 1/2ⁿ."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    ax = figure.subplots()
    for name, c in counts.items():
        student, share = "width" in name, c["minima"] / max(c["points"], 1)
        colour = POSITIVE if student else NEGATIVE
        if share:
            ax.plot(c["n"], share, "o", color=colour, ms=6)
        else:  # an upper bound of 95 %
            ax.plot(c["n"], 3 / max(c["points"], 3), "v", mfc="none", color=colour, ms=7)
        if not student:
            ax.annotate(name, (c["n"], share or 3 / max(c["points"], 3)), xytext=(6, 4),
                        textcoords="offset points", fontsize=8)  # fmt: skip
    n = torch.arange(5, 61, dtype=torch.float64)
    ax.plot(n, 0.5**n, "--", color=ZERO, label="1/2ⁿ")
    ax.plot([], [], "o", color=POSITIVE, label="teacher's students, by width")
    ax.plot([], [], "o", color=NEGATIVE, label="the other settings")
    ax.plot([], [], "v", mfc="none", color=ZERO, label="none found: 95 % bound")
    ax.set_yscale("log")
    ax.set_ylim(1e-12, 2)
    ax.set_xlabel("parameters n")
    ax.set_ylabel("share of minima among critical points")
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def _text(anywhere: dict[str, Arrays], counts: dict[str, dict[str, float]], descents: int) -> str:
    rows = [
        [
            name,
            str(c["n"]),
            f"{c['minima']} of {c['points']}",
            f"{c['minima above']} of {c['above']}",
            number(0.5 ** c["n"]),
            f"1e{-(c['n'] ** 2) * math.log10(3) / 4:.0f}",
        ]
        for name, c in counts.items()
    ]
    bowl = [int((finder.index(f["eigenvalues"]) == 0).sum()) for f in anywhere.values()]
    total = sum(len(f["eigenvalues"]) for f in anywhere.values())
    head = ["setting", "n", "minima", "minima above the lowest", "1/2ⁿ", "a random matrix"]
    return (
        "The argument takes each curvature's sign for the toss of a coin. A Gaussian random "
        "matrix is positive with a probability of about 3^(-n²/4), which is rarer still (Dean and "
        "Majumdar 2006). A minimum here is a critical point with no negative eigenvalue, its "
        "index certain; distinct points count once. What a search finds is a sample of its own: "
        "it goes to points near the paths of training more often than to others, and minima are "
        f"among them because descents from {descents} starts in each setting were followed to "
        "theirs; those that run off to infinity, where units saturate (root mean square of θ above "
        f"{finder.LARGE:g}), have none. At random starts "
        f"{sum(bowl)} of {total} Hessians have no negative eigenvalue.\n\n" + table(head, rows)
    )

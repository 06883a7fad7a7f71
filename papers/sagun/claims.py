"""The paper's claims as rules: numbers in, whether they bear the claim out.

Each function is one claim. It gets what was measured, a row per condition and a column per seed
where there are seeds, and decides by a rule that its docstring states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from common.claims import NO, UNDECIDED, YES, Claim, number, spread, verdict
from torch import Tensor

FLAT = 0.01  # of the initial loss: a barrier below is called flat
SIMILAR = 1.5  # ratio of medians below which norms are called similar
CAPPED = (0.8, 1.2)  # of 2/lr: an eigenvalue inside is held there by the step size
SURE = 100  # times rounding: a gradient above is certainly not zero


def bulk_grows(sizes: Sequence[int], zeros: Tensor, what: str) -> Claim:
    """Holds if medians of number and share near zero grow from size to size, and every seed's ends.

    `zeros` is (sizes, seeds); seeds of different sizes have nothing else in common than a number.
    In part if only the medians grow.
    """
    shares = zeros / torch.tensor(sizes)[:, None]
    rows = torch.stack([zeros.double(), shares.double()])
    ends = bool((rows[:, -1] > rows[:, 0]).all())
    typically = bool((rows.quantile(0.5, dim=2).diff(dim=1) > 0).all())
    text = "; ".join(
        f"n = {n:,}: {spread(z)}, {float(p.double().quantile(0.5)):.0%}"
        for n, z, p in zip(sizes, zeros, shares, strict=True)
    )
    return Claim(
        f"The bulk at zero grows with the width, in number and share ({what})",
        text,
        verdict(ends and typically, typically),
    )


def bulk_surely_grows(sizes: Sequence[int], low: Tensor, high: Tensor, what: str) -> Claim:
    """Holds if every size has surely more near zero than the one before, in number and share.

    `low` and `high` (sizes,) bound the number near zero. In part if the number surely grows.
    """
    n = torch.tensor(sizes).double()
    grows = bool((low[1:] > high[:-1]).all())
    share = bool((low[1:] / n[1:] > high[:-1] / n[:-1]).all())
    text = "; ".join(
        f"n = {size:,}: {number(float(a))}" + (f" to {number(float(b))}" if b > a else "")
        + f", {float(a) / size:.0%}" + (f" to {float(b) / size:.0%}" if b > a else "")
        for size, a, b in zip(sizes, low, high, strict=True)
    )  # fmt: skip
    claim = f"The bulk at zero grows with the width, in number and share ({what})"
    return Claim(claim, text, verdict(grows and share, grows))


def top_does_not_grow(sizes: Sequence[int], tops: Sequence[float], what: str) -> Claim:
    """Holds if no network's λ1 exceeds that of the smallest by 10 %; in part if by a factor of 1.5.

    For one seed of each size.
    """
    ratio = max(tops) / tops[0]
    text = "; ".join(f"n = {n:,}: {top:.3g}" for n, top in zip(sizes, tops, strict=True))
    claim = f"The largest eigenvalue does not grow with the width ({what})"
    return Claim(claim, text, verdict(ratio <= 1.1, ratio <= SIMILAR))


def isolated_stay(sizes: Sequence[int], counts: Tensor, clear: Tensor) -> Claim:
    """Holds if no median exceeds that of the smallest size; undecided unless most are clear.

    `counts` and `clear` are (sizes, seeds); at every size more than half have to be clear.
    """
    medians = counts.double().quantile(0.5, dim=1)
    stay = bool((medians <= medians[0]).all())
    sure = bool((clear.double().mean(1) > 0.5).all())
    text = "; ".join(
        f"n = {n:,}: {spread(c)}, clear in {float(k.double().mean()):.0%}"
        for n, c, k in zip(sizes, counts, clear, strict=True)
    )
    claim = "The number of isolated eigenvalues does not grow with the width (largest gap ratio)"
    return Claim(claim, text, (YES if stay else NO) if sure else UNDECIDED)


def tops_stay(sizes: Sequence[int], tops: Tensor) -> Claim:
    """Holds if the median of λ1 changes less from size to size than it spreads over seeds."""
    medians = tops.quantile(0.5, dim=1)
    widths = tops.quantile(0.9, dim=1) - tops.quantile(0.1, dim=1)
    change = float(medians.max() - medians.min())
    text = "; ".join(f"n = {n:,}: {spread(t)}" for n, t in zip(sizes, tops, strict=True))
    text += f". Medians differ by {change:.2g}, seeds (10 to 90 %) by {spread(widths)}"
    claim = "The largest eigenvalue does not grow with the width"
    return Claim(claim, text, verdict(change <= float(widths.min()), change <= float(widths.max())))


def data_matter(names: Sequence[str], tops: Sequence[Tensor], what: str) -> Claim:
    """Holds if the ranges of all conditions are disjoint; in part if medians differ twofold."""
    ordered = sorted(tops, key=lambda t: float(t.double().quantile(0.5)))
    apart = all(float(a.max()) < float(b.min()) for a, b in pairwise(ordered))
    medians = [float(t.double().quantile(0.5)) for t in ordered]
    text = "; ".join(f"{name}: {spread(t)}" for name, t in zip(names, tops, strict=True))
    return Claim(
        f"The largest eigenvalue depends on the data ({what})",
        text,
        verdict(apart, medians[-1] > 2 * abs(medians[0])),
    )


def classes_count(classes: Sequence[int], counts: Tensor, clear: Tensor, law: str) -> Claim:
    """Holds if the median count is C for every C (the paper saw 2 for C = 2); in part if it grows.

    `counts` and `clear` are (classes, seeds); undecided unless most are clear for every C.
    """
    medians = counts.double().quantile(0.5, dim=1)
    always = all(float(m) == C for m, C in zip(medians, classes, strict=True))
    text = "; ".join(
        f"C = {C}: {_table(c)}, clear in {float(k.double().mean()):.0%}"
        for C, c, k in zip(classes, counts, clear, strict=True)
    )
    claim = f"As many eigenvalues are isolated as there are classes ({law})"
    grows = len(medians) > 1 and bool((medians.diff() > 0).all())
    sure = bool((clear.double().mean(1) > 0.5).all())
    return Claim(claim, text, verdict(always, grows) if sure else UNDECIDED)


def _table(counts: Tensor) -> str:
    """Counts by value: "1 in 60 %, 2 in 40 %" of the seeds, the three most frequent."""
    values, numbers = counts.unique(return_counts=True)
    order = numbers.argsort(descending=True)[:3]
    return ", ".join(f"{int(values[i])} in {float(numbers[i]) / len(counts):.0%}" for i in order)


def training_concentrates(before: Tensor, after: Tensor, n: int, what: str) -> Claim:
    """Holds if more eigenvalues are near zero after training in every seed; in part if in most."""
    more = (after > before).double().mean()
    text = f"{spread(before)} of {n:,} before, {spread(after)} after; more in {float(more):.0%}"
    holds = verdict(float(more) == 1, float(more) > 0.5)
    return Claim(f"Training concentrates eigenvalues at zero ({what})", text, holds)


def negative_remain(lowest: Tensor, errors: Tensor, largest: Tensor, where: str) -> Claim:
    """Holds if λmin is below zero by more than its error in every seed; in part if in most."""
    below = (lowest < -errors).double().mean()
    text = (
        f"λmin certainly negative in {float(below):.0%}; |λmin|/λmax "
        f"{spread(lowest.abs() / largest)}"
    )
    claim = f"Negative eigenvalues remain after training, small in size ({where})"
    return Claim(claim, text, verdict(float(below) == 1, float(below) > 0.5))


def not_critical(norms: Tensor, rounding: Tensor, where: str) -> Claim:
    """Holds if every gradient is more than 100 times what rounding makes of a zero gradient."""
    factor = norms / rounding
    above = (factor > SURE).double().mean()
    text = f"gradient norm {spread(norms)}, at least {float(factor.min()):.1g} times rounding"
    claim = f"The point reached is not strictly critical ({where})"
    return Claim(claim, text, verdict(float(above) == 1, float(above) > 0.5))


def no_critical_point_near(
    losses: Tensor, later: Tensor, norms: Tensor, later_norms: Tensor, where: str
) -> Claim:
    """Holds if ten times the steps at least halve the loss and lengthen θ in every seed."""
    further = ((later < losses / 2) & (later_norms > norms)).double().mean()
    text = (
        f"loss falls by a factor of {spread(losses / later)}, |θ| grows by a factor of "
        f"{spread(later_norms / norms)}; both in {float(further):.0%}"
    )
    claim = f"Nor is a critical point near: training goes on when continued tenfold ({where})"
    return Claim(claim, text, verdict(float(further) == 1, float(further) > 0.5))


def overlap_grows(stds: Sequence[float], tops: Tensor, name: str, rate: float) -> Claim:
    """Holds if medians grow with the standard deviation and the ends are apart beyond the seeds.

    `tops` is (stds, seeds). Apart: the 10 % quantile at the largest std is above the 90 % quantile
    at the smallest. In part if only the ends are apart.
    """
    medians = tops.quantile(0.5, dim=1)
    apart = bool(tops[-1].quantile(0.1) > tops[0].quantile(0.9))
    monotone = bool((medians.diff() > 0).all())
    text = "; ".join(f"std {s:g}: {spread(t)}" for s, t in zip(stds, tops, strict=True))
    claim = f"{name} grows as the classes overlap, beyond its fluctuations (lr = {rate:g})"
    return Claim(claim, text, verdict(apart and monotone, apart))


def not_the_optimiser(rates: Sequence[float], tops: Tensor) -> Claim:
    """Holds if λ1 at the largest overlap is the same for all step sizes and below 2/lr.

    `tops` is (rates, seeds). "no" if, for some step size, most networks end within 20 % of 2/lr.
    """
    held = [
        float(((t * r / 2 > CAPPED[0]) & (t * r / 2 < CAPPED[1])).double().mean())
        for t, r in zip(tops, rates, strict=True)
    ]
    medians = tops.quantile(0.5, dim=1)
    same = float(medians.max()) <= SIMILAR * float(medians.min())
    text = "; ".join(
        f"lr = {r:g} (2/lr = {2 / r:g}): {spread(t)}, {h:.0%} within 20 % of 2/lr"
        for r, t, h in zip(rates, tops, held, strict=True)
    )
    free = max(held) <= 0.5
    return Claim(
        "The size of the top eigenvalue at the largest overlap is the data's, not the optimiser's",
        text,
        verdict(free and same, free),
    )


def norms_similar(stds: Sequence[float], norms: Tensor, rate: float) -> Claim:
    """Holds if the medians of the weight norm are within a factor of 1.5; in part within 3."""
    medians = norms.quantile(0.5, dim=1)
    ratio = float(medians.max() / medians.min())
    text = "; ".join(f"std {s:g}: {spread(t)}" for s, t in zip(stds, norms, strict=True))
    claim = f"The norm of the weights is similar along figure 9 (lr = {rate:g})"
    holds = verdict(ratio <= SIMILAR, ratio <= SIMILAR**3)
    return Claim(claim, f"{text}. Largest over smallest median: {ratio:.2g}", holds)


def line_is_flat(barriers: Tensor, initial: Tensor) -> Claim:
    """Holds if no barrier of any seed and step exceeds 1 % of the initial loss.

    `barriers` is (seeds, steps), `initial` (seeds,). In part if the median seed does not.
    """
    relative = barriers / initial[:, None]
    worst = relative.amax(1)
    text = (
        f"largest barrier over training, of the initial loss: {spread(worst)}; "
        f"at the end {spread(relative[:, -1])}"
    )
    claim = "From one start, the line between GD and SGD is flat all along training"
    holds = verdict(float(worst.max()) <= FLAT, float(worst.quantile(0.5)) <= FLAT)
    return Claim(claim, text, holds)


def line_decreases(middles: Tensor, barriers: Tensor, what: str) -> Claim:
    """Holds if the loss in the middle is lower at the end than at the start in every seed.

    `middles` and `barriers` are (seeds, steps). In part if it is lower in most.
    """
    lower = (middles[:, -1] < middles[:, 0]).double().mean()
    text = (
        f"loss in the middle {spread(middles[:, 0])} at first, {spread(middles[:, -1])} at the "
        f"end, lower in {float(lower):.0%}; barrier at the end {spread(barriers[:, -1])}"
    )
    claim = f"From different starts, the loss on the line decreases too, if not as flat ({what})"
    return Claim(claim, text, verdict(float(lower) == 1, float(lower) > 0.5))


def very_singular(shares: Tensor, what: str) -> Claim:
    """Holds if more than half of the eigenvalues are near zero in every seed; in part in some."""
    low, middle, high = (float(shares.double().quantile(q)) for q in (0, 0.5, 1))
    text = f"{middle:.1%}" if low == high else f"{middle:.1%} [{low:.1%}, {high:.1%}]"
    holds = verdict(float(shares.min()) > 0.5, float(shares.max()) > 0.5)
    return Claim(f"The Hessian after training is extremely singular ({what})", text, holds)


def starts_matter_little(tops: Tensor) -> Claim:
    """Holds if the 10 and 90 % quantiles of λ1 are within a factor of 1.5; in part within 3."""
    low, middle, high = (float(tops.quantile(q)) for q in (0.1, 0.5, 0.9))
    ratio = high / low if low > 0 else math.inf
    text = (
        f"{len(tops):,} networks: median {middle:.3g}, 10 to 90 % {low:.3g} to {high:.3g}, "
        f"range {float(tops.min()):.3g} to {float(tops.max()):.3g}"
    )
    claim = "The largest eigenvalue fluctuates little with the starting point (figure 8)"
    return Claim(claim, text, verdict(ratio <= SIMILAR, ratio <= 3))

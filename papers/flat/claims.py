"""Claims about flatness as rules: a table in, whether it bears the claim out."""

from __future__ import annotations

import math

import torch
from common.claims import NO, PARTLY, UNDECIDED, YES, Claim, interval, spread, verdict
from scipy.stats import kendalltau
from torch import Tensor

from flat.figures import Table, beside_plain
from flat.measure import MEASURES
from flat.page import points

SURE = 0.05 / len(MEASURES)  # chance of a correlation without any relation, for all measures


def of_comparison(table: Table, targets: tuple[float, ...], plain: str, what: str) -> list[Claim]:
    """Each method against plain SGD at all losses, and whether flatter tests better."""
    names = {
        "small batch": ("Small batches end in flatter minima", "landscapes/small-batch-flat"),
        "SAM, ρ = 0.05": ("SAM (ρ = 0.05) reduces λmax", "landscapes/sam"),
        "SAM, ρ = 0.2": ("SAM (ρ = 0.2) reduces λmax", "landscapes/sam"),
        "trace penalty": ("A trace penalty ends in flatter minima", "landscapes/trace-penalty"),
        "Entropy-SGD": ("Entropy-SGD ends in flatter minima", "landscapes/entropy-sgd"),
    }
    found = []
    for name, (claim, key) in names.items():
        logs = beside_plain(table, "lambda_max", plain)[name]
        gains = beside_plain(table, "accuracy", plain)[name]
        found.append(flatter(f"{claim} ({what})", logs, gains, targets, key))
        if name in ("small batch", "trace penalty"):
            text = "Small batches test better" if name == "small batch" else (
                "A trace penalty improves generalisation")  # fmt: skip
            found.append(better(f"{text} ({what}, at equal loss)", gains, targets, key))
    found.append(vanishes(table, targets, plain, what))
    return found


def flatter(claim: str, logs: Tensor, gains: Tensor, targets: tuple[float, ...], key: str) -> Claim:
    """Holds if λmax is surely lower than plain SGD's at every loss; in part if at any.

    `logs` are logarithms of the ratio, (seeds, targets); surely: the 95 % interval is below zero.
    """
    sure, texts = [], []
    for j, target in enumerate(targets):
        mean, half = interval(logs[:, j])
        sure.append(mean + half < 0)
        low, high = math.exp(mean - half), math.exp(mean + half)
        texts.append(
            f"loss {target:g}: λmax {math.exp(mean):.2f} [{low:.2f}, {high:.2f}] of plain SGD's, "
            f"accuracy {points(gains[:, j])} points"
        )
    holds = _at_losses(sure)
    tried = tuple(texts) if holds == NO else ()
    return Claim(claim, "; ".join(texts) + f"; {len(logs)} seeds", holds, key, tried)


def better(claim: str, gains: Tensor, targets: tuple[float, ...], key: str) -> Claim:
    """Holds if the accuracy is surely higher than plain SGD's at every loss; in part if at any."""
    texts, sure = [], []
    for j, target in enumerate(targets):
        mean, half = interval(gains[:, j])
        sure.append(mean > half)
        texts.append(f"loss {target:g}: {points(gains[:, j])} points")
    holds = _at_losses(sure)
    tried = tuple(texts) if holds == NO else ()
    return Claim(claim, "; ".join(texts) + f"; {len(gains)} seeds", holds, key, tried)


def _at_losses(sure: list[bool]) -> str:
    """At all of them, at some, or at none of at least three: fewer do not refute a claim."""
    return UNDECIDED if len(sure) < 3 and not any(sure) else verdict(all(sure), any(sure))


def vanishes(table: Table, targets: tuple[float, ...], plain: str, what: str) -> Claim:
    """Holds if a method is surely flatter at some loss and surely not better there by a point.

    In part if one is surely flatter without being surely better.
    """
    gone, unseen = [], []
    for name, logs in beside_plain(table, "lambda_max", plain).items():
        for j, target in enumerate(targets):
            gain, half = interval(beside_plain(table, "accuracy", plain)[name][:, j])
            if name != plain and sum(interval(logs[:, j])) < 0 and gain <= half:
                place = gone if gain + half < 1 else unseen
                text = points(beside_plain(table, "accuracy", plain)[name][:, j])
                place.append(f"{name} at {target:g} ({text})")
    holds = YES if gone else PARTLY if unseen else NO
    text = f"surely flatter, but less than a point better: {'; '.join(gone) or 'none'}"
    text += f"; flatter, better or not cannot be told: {'; '.join(unseen) or 'none'}"
    claim = f"The benefit of flatness can vanish ({what})"
    return Claim(claim, text, holds, "landscapes/benefit-vanishes")


def elsewhere(table: Table, targets: tuple[float, ...], plain: str) -> list[Claim]:
    """Whether what is surely flatter is surely better on shifted digits, at the lowest loss.

    Holds if all that are surely flatter are; in part if any is.
    """
    j, sure, texts = len(targets) - 1, [], []
    gains = beside_plain(table, "shifted", plain)
    for name, logs in beside_plain(table, "lambda_max", plain).items():
        if name != plain and sum(interval(logs[:, j])) < 0:
            mean, half = interval(gains[name][:, j])
            sure.append(mean > half)
            texts.append(f"{name}: {points(gains[name][:, j])} points")
    holds = verdict(all(sure), any(sure)) if sure else UNDECIDED
    tried = tuple(texts) if holds == NO else ()
    claim = "Flatter minima do better on shifted digits (at the lowest loss, beside plain SGD)"
    text = "; ".join(texts) or "none is surely flatter"
    return [Claim(claim, text, holds, "landscapes/out-of-distribution", tried)]


Correlations = dict[str, dict[str, tuple[float, float]]]


def correlations(table: Table) -> Correlations:
    """Kendall's tau and its p-value of each measure with both accuracies, over all networks."""
    found: Correlations = {}
    for name in MEASURES:
        values = torch.cat([rows[name][:, -1] for rows in table.values()])
        found[name] = {}
        for test in ("accuracy", "shifted"):
            right = torch.cat([rows[test][:, -1] for rows in table.values()])
            known = values.isfinite() & right.isfinite()
            tau = kendalltau(values[known].numpy(), right[known].numpy())
            found[name][test] = (float(tau.statistic), float(tau.pvalue))
    return found


def flatter_is_better(found: Correlations, networks: int) -> Claim:
    """Holds if every measure goes surely with accuracy, flatter with better; in part if any does.

    Surely: at the level 0.05, shared out over the measures.
    """
    sure = [tau < 0 and p < SURE for tau, p in (both["accuracy"] for both in found.values())]
    text = "; ".join(f"{name} {both['accuracy'][0]:+.2f}" for name, both in found.items())
    claim = "Flatter is better: every measure of sharpness goes with test accuracy"
    holds = verdict(all(sure), any(sure))
    tried = tuple(text.split("; ")) if holds == NO else ()
    measured = f"Kendall's tau over {networks} networks of equal loss: {text}"
    return Claim(claim, measured, holds, "landscapes/benefit-vanishes", tried)


def sharpness_is_of_the_weights(found: dict[str, Tensor]) -> Claim:
    """Holds if λmax changes more than tenfold in every seed while no output moves by 1e-9."""
    ratio = found["lambda_max"].amax(0) / found["lambda_max"].amin(0)
    asam = found["ASAM"].amax(0) / found["ASAM"].amin(0)
    same = bool((found["moved"] < 1e-9).all())
    text = (
        f"λmax by a factor of {spread(ratio)}, ASAM's sharpness by {spread(asam)}; outputs move by "
        f"at most {float(found['moved'].max()):.1g}"
    )
    claim = "The same function can be made sharper without any change of what it answers"
    holds = verdict(same and bool((ratio > 10).all()), same and bool((ratio > 1).all()))
    return Claim(claim, text, holds, "landscapes/benefit-vanishes")


def at_its_edge(found: dict[float, list[dict[str, Tensor]]], lr: float) -> Claim:
    """Holds if SAM's λmax ends below 0.9 · 2/lr in every seed and within 20 % of its own edge."""
    from flat.figures import late

    texts, below, near = [], [], []
    for rho, seeds in found.items():
        ratios = torch.tensor([late(one) for one in seeds], dtype=torch.float64)
        share = ratios[:, 1] * lr / 2
        texts.append(f"ρ = {rho:g}: {spread(share)} of 2/lr, {spread(ratios[:, 0])} of its edge")
        if rho:
            below.append(bool((share < 0.9).all()))
            near.append(bool(((ratios[:, 0] - 1).abs() < 0.2).all()))
    holds = verdict(all(below) and all(near), all(below))
    claim = "SAM holds λmax at an edge of its own, below 2/lr (full batch)"
    return Claim(
        claim, "; ".join(texts), holds, "landscapes/sam", tuple(texts) if holds == NO else ()
    )

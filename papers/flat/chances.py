"""Where three claims that the comparison on digits denies should have their best chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from functools import partial

import torch
from common import data
from common.claims import NO, Claim, interval
from common.keeping import Run as Kept
from common.study import table
from torch import Tensor, nn
from torch.nn import functional as F

from flat import networks
from flat.measure import measured
from flat.page import points, ratio
from flat.settings import Sizes
from flat.train import Entropy, Method, Setting

NOISE, WRONG = 0.2, 0.2  # of a pixel, whose scale is 1; share of labels
Tests = dict[str, tuple[Tensor, Tensor]]
Found = dict[str, Tensor]  # by setting, differences to plain SGD (seeds,)


def small_batches(run: Kept, sizes: Sizes) -> Found:
    """Points of accuracy that small batches gain: few data, wrong labels, the largest contrast."""
    X, y, test_X, test_y = networks.digits(sizes.train)
    wrong = torch.rand(len(y), generator=torch.Generator().manual_seed(0)) < WRONG
    false = torch.where(wrong, (y + 1) % 10, y)
    few = min(100, len(y))
    every = len(y)
    settings = {
        f"{few} digits": (X[:few], y[:few], few, 10),
        "a fifth of the labels wrong": (X, false, 100, 10),
        "batches of 4 against all data": (X, y, every, 4),
    }
    found = {}
    for name, (inputs, labels, large, small) in settings.items():
        rows = [
            _trained(run, name, (inputs, labels), Method(batch), sizes,
                     {"accuracy": (test_X, test_y)}) for batch in (large, small)
        ]  # fmt: skip
        found[name] = 100 * (rows[1]["accuracy"] - rows[0]["accuracy"])
    return found


def entropy(run: Kept, sizes: Sizes) -> Found:
    """Logarithms of λmax over plain SGD's: rounds of 50 steps whose mean looks far back."""
    X, y, test_X, test_y = networks.digits(sizes.train)
    ways = {
        "rounds of 50": (100, 1e-4),
        "rounds of 50 and noise 0.05": (100, 0.05),
        "rounds of 50 and batches of 10": (10, 1e-4),
    }
    found = {}
    for name, (batch, noise) in ways.items():
        own = Entropy(batch, gamma=0.1, noise=noise, inner=50, alpha=0.05)
        rows = [
            _trained(run, name, (X, y), method, sizes, {"accuracy": (test_X, test_y)})
            for method in (Method(batch), own)
        ]
        found[name] = (rows[1]["lambda_max"] / rows[0]["lambda_max"]).log()
    return found


def elsewhere(run: Kept, sizes: Sizes) -> Found:
    """Points of accuracy on milder data from elsewhere that the flattest three ways gain."""
    X, y, test_X, test_y = networks.digits(sizes.train)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(test_X.shape, generator=generator, dtype=X.dtype)
    whole, _ = data.digits()
    tests = {
        "half a pixel to the right": (_half(whole[sizes.train :]), test_y),
        "with noise": (test_X + NOISE * noise, test_y),
        "half as bright": (test_X / 2, test_y),
    }
    ways = {
        "plain SGD": Method(100),
        "small batch": Method(10),
        "SAM, ρ = 0.2": Method(100, rho=0.2),
        "trace penalty": Method(100, strength=1e-2),
    }
    twice = replace(sizes, digits=2 * sizes.digits)  # seeds, for nine differences share the level
    rows = {
        way: _trained(run, "elsewhere", (X, y), method, twice, tests, sizes.targets[-1])
        for way, method in ways.items()
    }
    plain = rows.pop("plain SGD")
    return {
        f"{test}, {way}": 100 * (row[test] - plain[test]) for test in tests
        for way, row in rows.items()
    }  # fmt: skip


def _half(X: Tensor) -> Tensor:
    """Digits of 28 x 28 moved to the right by half of a pixel of the seven."""
    moved = F.pad(X.view(-1, 1, 28, 28), (2, 0))[..., :28]
    return F.avg_pool2d(moved, 4).flatten(1)


def _trained(
    run: Kept, name: str, pair: tuple[Tensor, Tensor], method: Method, sizes: Sizes, tests: Tests,
    target: float = 0.1,
) -> dict[str, Tensor]:  # fmt: skip
    """Columns (seeds,) at one loss on these data."""
    X, y = pair
    make: Callable[[int], nn.Module] = partial(networks.perceptron, width=sizes.width)
    target = max(target, sizes.targets[-1])
    setting = Setting(make, X, y, 0.5, 0.0, (target,), 10, sizes.most, len(y))
    key = (method, target, sizes.most, data.digest(X, y), list(tests))
    place = f"chances/{name.replace(' ', '-').replace(',', '')}"
    place += "/" + "-".join(f"{value:g}" for value in astuple(method))
    rows = [
        run.arrays(f"{place}/{seed}", key,
                   partial(measured, setting, method, seed, tests, len(y), False))
        for seed in range(sizes.digits)
    ]  # fmt: skip
    return {column: torch.stack([row[column][0] for row in rows]) for column in rows[0]}


def tried(claim: Claim, found: Found, *, points_of: bool) -> Claim:
    """A NO with what these settings gave; "only when" where one of them surely bears it out.

    Surely: the interval of points lies above zero, or that of a logarithm below it, at the level
    of 0.05 shared out over the settings.
    """
    if claim.holds != NO:
        return claim
    good, words = [], []
    for name, values in found.items():
        mean, half = interval(values, 0.05 / len(found))
        words.append(f"{name}: {points(values) + ' points' if points_of else ratio(values)}")
        if (mean - half > 0) if points_of else (mean + half < 0):
            good.append(name)
    measured = f"{claim.measured}. Best chances: {'; '.join(words)}"
    if good:
        holds = f"only when: {'; '.join(good)}"
        return Claim(claim.claim, measured, holds, claim.statement)
    return Claim(claim.claim, claim.measured, NO, claim.statement, (*claim.tried, *words))


def text(by: dict[str, tuple[Found, bool]], seeds: int) -> str:
    """A row for each setting."""
    rows = [
        [claim, name, f"{points(v)} points" if points_of else f"{ratio(v)} of λmax"]
        for claim, (found, points_of) in by.items()
        for name, v in found.items()
    ]
    return f"""
**Best chances.** Where the table above denies a claim, the same network where the claim should have
its best chance ({seeds} seeds at a loss of 0.1; {2 * seeds} on data from elsewhere, at the lowest
loss): small batches on few data, on wrong labels that are not to be learnt, and against all data at
once; Entropy-SGD with rounds of 50 steps whose mean takes a twentieth of the newest point (α =
0.05); and milder data from elsewhere. Intervals of 95 %; to count, a difference must be outside of
one whose level is shared out over the settings of its claim.

{table(["claim", "setting", "beside plain SGD"], rows)}"""

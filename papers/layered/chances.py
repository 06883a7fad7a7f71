"""Where claims that the three networks deny should have their best chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from common import data
from common.claims import NO, Claim, spread
from common.data import digest
from common.keeping import Arrays, Run
from scipy.stats import spearmanr
from torch import Tensor, nn

import hesscope as hs
from layered import spectra
from layered.networks import Kind, layers, matrices, perceptron, train, trained

MOST, RANKED = 0.8, 0.8  # as of the claims themselves
FACTORS = (1.0, 4.0, 16.0)
RATES = tuple(10 ** (i / 2) for i in range(-2, 4))  # of SGD, times 1/λmax at the start
ADAM = tuple(10 ** (i / 2) for i in range(-6, 2))


class Halves(nn.Module):
    """Softmax regression with a weight for each half of the inputs: both are needed."""

    def __init__(self, inputs: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(inputs // 2, 10).double()
        self.second = nn.Linear(inputs - inputs // 2, 10, bias=False).double()
        self.factors = (1.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        one, two = x.split((self.first.in_features, self.second.in_features), 1)
        return self.factors[0] * self.first(one) + self.factors[1] * self.second(two)


def halves(factor: float, seed: int) -> Halves:
    """The same function for any factor: weights start so much smaller, or larger."""
    model = Halves(49, seed)
    with torch.no_grad():
        for parameter in model.first.parameters():
            parameter /= factor
        model.second.weight *= factor
    model.factors = (factor, 1 / factor)
    return model


def equal(kind: Kind, sizes: Any) -> Kind:
    """Digits of 4 x 4 pixels and 16 hidden units: layers of one size, but for the last."""
    pair = data.digits(examples=sizes.examples, pool=7)
    return replace(kind, make=partial(perceptron, sizes.widths[0], inputs=16), data=pair)


def shapes(run: Run, kind: Kind, sizes: Any) -> dict[str, Tensor]:
    """By setting, how unlike the whole each layer is, by its median over seeds."""
    hidden = sizes.widths[0]
    settings = {
        "one hidden layer": (replace(kind, make=partial(perceptron, hidden, depth=1)), sizes.steps),
        "layers of one size": (equal(kind, sizes), sizes.steps),
        "layers of one size, at the start": (equal(kind, sizes), 0),
        f"after {sizes.steps // 10} steps": (kind, sizes.steps // 10),
    }
    found = {}
    for name, (one, steps) in settings.items():
        rows = [
            run.arrays(_place("alike", name, seed), _key(one, sizes, steps),
                       partial(_unlike, one, seed, steps, sizes.lr)) for seed in range(sizes.seeds)
        ]  # fmt: skip
        found[name] = torch.stack([row["unlike"] for row in rows]).median(0).values
    return found


def _unlike(kind: Kind, seed: int, steps: int, lr: float) -> Arrays:
    one = spectra.measured(kind, kind.problem(trained(kind, seed, steps, lr)))
    return {"unlike": torch.tensor(list(spectra.unlikeness(one).values())).double()}


def outside(run: Run, kinds: dict[str, Kind], sizes: Any) -> dict[str, Tensor]:
    """By setting, the share of ‖·‖² outside of layers (seeds,), of G where K-FAC takes G."""
    two = replace(kinds["MLP"], make=partial(perceptron, sizes.widths[0], depth=1))
    settings = {f"G, {name} {state}": (kind, hs.GaussNewton, steps)
                for name, kind in kinds.items()
                for state, steps in (("at the start", 0), ("trained", sizes.steps))}  # fmt: skip
    settings["H, one hidden layer, trained"] = (two, hs.Hessian, sizes.steps)
    settings["G, one hidden layer, trained"] = (two, hs.GaussNewton, sizes.steps)
    found = {}
    for name, (kind, curvature, steps) in settings.items():
        rows = [
            run.arrays(_place("outside", name, seed), _key(kind, sizes, steps),
                       partial(_outside, kind, curvature, seed, steps, sizes.lr))
            for seed in range(sizes.seeds)
        ]  # fmt: skip
        found[name] = torch.stack([row["outside"] for row in rows])
    return found


def _outside(
    kind: Kind, curvature: Callable[[hs.Problem], Any], seed: int, steps: int, lr: float
) -> Arrays:
    problem = kind.problem(trained(kind, seed, steps, lr))
    squares = curvature(problem).to_dense().square()
    inside = sum(squares[rows][:, rows].sum() for rows in layers(kind, problem).values())
    return {"outside": 1 - inside / squares.sum()}


def families(run: Run, kinds: dict[str, Kind], sizes: Any, make: Any) -> dict[str, Arrays]:
    """Of networks that need all of their blocks: distances and gaps, (factor, seed).

    `make(hidden, factor, depth)` is the perceptron with factors.
    """
    plain = kinds["MLP"]
    many = replace(plain, data=data.digits(examples=10 * sizes.examples, pool=4))
    settings = {
        "softmax regression": (many, lambda f: partial(halves, f), 0.9),
        "narrow perceptron": (plain, lambda f: make(4, f, 2), 0.9),
        "perceptron, SGD without momentum": (plain, lambda f: make(sizes.widths[0], f, 4), 0.0),
    }
    found = {}
    for name, (kind, of, momentum) in settings.items():
        key = (*_key(kind, sizes, sizes.compared), FACTORS, RATES, ADAM)
        rows = [
            run.arrays(_place("families", f"{name} {f:g}", seed), key,
                       partial(_raced, replace(kind, make=of(f)), seed, sizes.compared, momentum))
            for f in FACTORS for seed in range(sizes.seeds)
        ]  # fmt: skip
        found[name] = {
            column: torch.stack([row[column] for row in rows]).view(len(FACTORS), sizes.seeds)
            for column in ("apart", "gap")
        }
    return found


def _raced(kind: Kind, seed: int, steps: int, momentum: float) -> Arrays:
    """How different blocks are, and log₁₀ of the best loss of SGD over that of Adam."""
    problem = kind.problem(kind.make(seed))
    dense = hs.Hessian(problem).to_dense()
    top = float(torch.linalg.eigvalsh(dense)[-1])
    blocks = [torch.linalg.eigvalsh(dense[w][:, w]) for w in matrices(problem).values()]
    losses: dict[str, list[float]] = {"SGD": [], "Adam": []}
    for rate in RATES:
        model = kind.make(seed)
        optimizer = torch.optim.SGD(model.parameters(), rate / top, momentum=momentum)
        losses["SGD"].append(train(kind, model, optimizer, steps))
    for rate in ADAM:
        model = kind.make(seed)
        losses["Adam"].append(train(kind, model, torch.optim.Adam(model.parameters(), rate), steps))
    best = {
        way: torch.tensor(ends).double().nan_to_num(torch.inf).min() for way, ends in losses.items()
    }
    return {
        "apart": torch.tensor(spectra.heterogeneity(blocks, top)).double(),
        "gap": (best["SGD"] / best["Adam"]).log10(),
    }


def tried(claim: Claim, found: dict[str, tuple[str, bool]]) -> Claim:
    """A NO with what these settings gave; "only when" where some of them bear it out."""
    if claim.holds != NO:
        return claim
    words = [f"{name} {gave}" for name, (gave, _) in found.items()]
    good = [name for name, (_, bears) in found.items() if bears]
    if good:
        told = f"{claim.measured}. Best chances: {'; '.join(words)}"
        return Claim(claim.claim, told, f"only when: {'; '.join(good)}", claim.statement)
    return replace(claim, tried=(*claim.tried, *words))


def below(found: dict[str, Tensor], limit: float) -> dict[str, tuple[str, bool]]:
    """Borne out where all values are below the limit."""
    return {name: (spread(values), bool((values < limit).all())) for name, values in found.items()}


def rising(found: dict[str, Arrays]) -> dict[str, tuple[str, bool]]:
    """Borne out where the gap rises from each factor to the next in 4 of 5 seeds.

    And is above zero at the last: else SGD is the better one all the same.
    """
    told = {}
    for name, family in found.items():
        up = (family["gap"].diff(dim=0) > 0).all(0) & (family["gap"][-1] > 0)
        share = float(up.double().mean())
        gaps = zip(FACTORS, family["gap"], strict=True)
        told[name] = ", ".join(f"f = {f:g} gap {spread(g)}" for f, g in gaps), share >= MOST
    return told


def ranked(found: dict[str, Arrays]) -> dict[str, tuple[str, bool]]:
    """Borne out where the median rank correlation of distance and gap is RANKED or more."""
    told = {}
    for name, family in found.items():
        rows = zip(family["apart"].T, family["gap"].T, strict=True)
        rank = torch.tensor([float(spearmanr(a, g).statistic) for a, g in rows]).double()
        told[name] = f"rank correlation {spread(rank)}", float(rank.median()) >= RANKED
    return told


def _place(what: str, name: str, seed: int) -> str:
    return f"best/{what}/{name.replace(' ', '-').replace(',', '')}/{seed}"


def _key(kind: Kind, sizes: Any, steps: int) -> tuple[Any, ...]:
    return digest(*kind.data), sizes.widths, steps, sizes.lr

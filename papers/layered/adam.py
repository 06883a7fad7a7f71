"""Do blocks that differ make Adam better than SGD? Five networks, tuned and compared.

The perceptron is also written with layers that are multiplied by f, 1/f, f, ... and weights that
start f times smaller, so that the function at the start is the same and the block of layer l is f²
times what it was: blocks differ more, and nothing else does (Zhang et al. 2024, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from common.claims import NO, PARTLY, YES, Claim, spread, verdict
from common.data import digest
from common.keeping import Run
from common.study import Section, table
from scipy.stats import spearmanr
from torch import Tensor, nn

import hesscope as hs
from layered import chances, figures, spectra
from layered.networks import Kind, matrices, perceptron, train
from layered.whole import looked

MOST = 0.8  # of the seeds
SGD = tuple(10 ** (i / 2) for i in range(-2, 4))  # times 1/λmax at the start
ADAM = tuple(10 ** (i / 2) for i in range(-8, -1))
Optimizer = Callable[[Any, float], torch.optim.Optimizer]


class Scaled(nn.Module):
    """Layers times factors, with weights that are so much smaller."""

    def __init__(self, model: nn.Sequential, factor: float) -> None:
        super().__init__()
        self.model = model
        self.factors = [factor ** (1 if i % 2 == 0 else -1) for i in range(len(linears(model)))]
        with torch.no_grad():
            for layer, f in zip(linears(model), self.factors, strict=True):
                layer.weight /= f
                layer.bias /= f

    def forward(self, x: Tensor) -> Tensor:
        """The same function at the start."""
        for i, layer in enumerate(linears(self.model)):
            x = self.factors[i] * layer(x if i == 0 else x.tanh())
        return x


def linears(model: nn.Sequential) -> list[nn.Linear]:
    """Its linear layers."""
    return [layer for layer in model if isinstance(layer, nn.Linear)]


def settings(kinds: dict[str, Kind], sizes: Any) -> dict[str, Kind]:
    """The three networks, and the perceptron with factors."""
    scaled = {}
    for factor in sizes.factors:
        make = partial(_scaled, sizes.widths[0], factor)
        scaled[f"MLP, f = {factor:g}"] = replace(kinds["MLP"], make=make)
    return {**kinds, **scaled}


def _scaled(hidden: int, factor: float, seed: int, depth: int = 4) -> Scaled:
    return Scaled(perceptron(hidden, seed, depth=depth), factor)


def with_factor(hidden: int, factor: float, depth: int) -> Callable[[int], nn.Module]:
    """Makes the perceptron with factors, by seed."""
    return partial(_scaled, hidden, factor, depth=depth)


def apart(one: dict[str, Tensor]) -> dict[str, Tensor]:
    """λmax at the start, and how different the spectra of the weights' blocks are there."""
    top, blocks = float(one["whole"][-1]), list(spectra.of(one, "weight").values())
    return {"lambda_max": one["whole"][-1], "apart": _number(spectra.heterogeneity(blocks, top))}


def apart_scaled(kind: Kind, plain: Kind, seed: int) -> dict[str, Tensor]:
    """The same with factors: ∂²L/∂(w/f)² = f² ∂²L/∂w², of the same function."""
    problem, factors = plain.problem(plain.make(seed)), kind.make(seed).factors
    stretch = torch.ones(problem.n, dtype=torch.float64)
    for name in problem.layout.names:
        stretch[problem.layout.coordinates(name)] = factors[int(name.split(".")[0]) // 2]
    dense = hs.Hessian(problem).to_dense() * stretch[:, None] * stretch
    H = hs.as_operator((dense + dense.T) / 2)
    top = hs.eigsh(H, 1, seed=0).eigenvalues[0]
    blocks = [hs.spectrum(H.submatrix(w)).eigenvalues for w in matrices(problem).values()]
    return {"lambda_max": top, "apart": _number(spectra.heterogeneity(blocks, float(top)))}


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def compared(
    kind: Kind, seed: int, steps: int, top: float, best: tuple[int, int] | None
) -> dict[str, Tensor]:
    """Losses after so many steps of SGD with momentum and of Adam, for each rate.

    With `best`, the places of the best of another seed, of these and their neighbours alone.
    """
    ways: tuple[tuple[Optimizer, list[float]], ...] = (
        (lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9), [s / top for s in SGD]),
        (torch.optim.Adam, list(ADAM)),
    )
    found = {}
    for i, (name, (make, rates)) in enumerate(zip(("SGD", "Adam"), ways, strict=True)):
        rates = rates if best is None else rates[max(best[i] - 1, 0) : best[i] + 2]
        losses = []
        for lr in rates:
            model = kind.make(seed)
            losses.append(train(kind, model, make(model.parameters(), lr), steps))
        found[name] = torch.tensor(losses, dtype=torch.float64).nan_to_num(torch.inf)
    return found


def _followed(
    run: Run, name: str, kind: Kind, sizes: Any, starts: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Distances, and losses of both, over seeds."""
    place = f"adam/{name.replace(' ', '').replace(',', '-')}"
    tops = [float(one["lambda_max"]) for one in starts]
    key = (digest(*kind.data), sizes.widths, sizes.compared, SGD, ADAM)
    job = partial(compared, kind, 0, sizes.compared, tops[0], None)
    tuned = run.arrays(f"{place}/tuned", key, job)
    best = int(tuned["SGD"].argmin()), int(tuned["Adam"].argmin())
    rows = []
    for seed, top in enumerate(tops):
        job = partial(compared, kind, seed, sizes.compared, top, best)
        rows.append(run.arrays(f"{place}/{seed}/compared", (*key, best), job))
    sgd, adam = (torch.stack([row[way].min() for row in rows]) for way in ("SGD", "Adam"))
    edge = torch.tensor([best[0] in (0, len(SGD) - 1), best[1] in (0, len(ADAM) - 1)])
    return {
        "apart": torch.stack([one["apart"] for one in starts]),
        "SGD": sgd,
        "Adam": adam,
        "gap": (sgd / adam).log10(),
        "at the edge": edge,
    }


def measure(run: Run, sizes: Any) -> Section:
    """Distances between blocks at the start beside what Adam gains."""
    kinds, looks = looked(run, sizes)
    starts = {name: [apart(one) for one in states["start"]] for name, states in looks.items()}
    all_kinds = settings(kinds, sizes)
    for name in all_kinds.keys() - kinds.keys():
        kind, plain = all_kinds[name], kinds["MLP"]
        starts[name] = [
            run.arrays(
                f"adam/{name.replace(' ', '').replace(',', '-')}/{seed}/start",
                (digest(*kind.data), sizes.widths),
                partial(apart_scaled, kind, plain, seed),
            )
            for seed in range(sizes.seeds)
        ]
    found = {n: _followed(run, n, kind, sizes, starts[n]) for n, kind in all_kinds.items()}
    families = chances.families(run, kinds, sizes, with_factor)
    claims = [
        transformer(found),
        chances.tried(controlled(found), chances.rising(families)),
        chances.tried(predicted(found), chances.ranked({**parted(found), **families})),
    ]
    return Section(_text(found, sizes), claims, figures.adam(found), {"networks": found})


def parted(found: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Networks of one function and networks of other kinds, each by themselves: (network, seed)."""
    groups = {
        "the perceptron with factors": [n for n in found if n.startswith("MLP")],
        "the three networks": [n for n in found if "f = " not in n],
    }
    return {
        name: {c: torch.stack([found[n][c] for n in names]) for c in ("apart", "gap")}
        for name, names in groups.items()
    }


def transformer(found: dict[str, dict[str, Tensor]]) -> Claim:
    """Yes if the transformer's blocks differ more than those of both others in 4 of 5 seeds."""
    ours = found["GPT"]["apart"]
    more = {n: float((ours > found[n]["apart"]).double().mean()) for n in ("MLP", "CNN")}
    words = [f"{n} {spread(found[n]['apart'])}" for n in ("GPT", "CNN", "MLP")]
    enough = [share >= MOST for share in more.values()]
    return Claim(
        "Blocks of a transformer differ more at the start than those of other networks (Zhang et "
        "al. 2024)",
        f"mean distance between the spectra of two blocks, 0 to 1: {', '.join(words)}",
        YES if all(enough) else PARTLY if any(enough) else NO,
        tried=tuple(words) if not any(enough) else (),
    )


def controlled(found: dict[str, dict[str, Tensor]]) -> Claim:
    """Yes if the gap rises with f in 4 of 5 seeds, in part if it is larger at the largest f."""
    names = [name for name in found if name.startswith("MLP")]
    gaps = torch.stack([found[name]["gap"] for name in names])  # (factors, seeds)
    rising = float((gaps.diff(dim=0) > 0).all(0).double().mean())
    higher = float((gaps[-1] > gaps[0]).double().mean())
    words = [
        f"{n}: distance {spread(found[n]['apart'])}, gap {spread(found[n]['gap'])}" for n in names
    ]
    return Claim(
        "The same function with blocks that differ more makes Adam better than SGD",
        f"log₁₀ of SGD's loss over Adam's: {'; '.join(words)}",
        verdict(rising >= MOST, higher >= MOST),
        tried=tuple(words) if higher < MOST else (),
    )


def predicted(found: dict[str, dict[str, Tensor]]) -> Claim:
    """Yes if the median rank correlation over seeds is at least 0.8, in part if at least 0.4."""
    apart_, gaps = (torch.stack([one[c] for one in found.values()]) for c in ("apart", "gap"))
    ranks = torch.tensor([
        float(spearmanr(apart_[:, i], gaps[:, i]).statistic) for i in range(apart_.shape[1])
    ])  # fmt: skip
    middle = float(ranks.median())
    words = [f"{n} gap {spread(one['gap'])}" for n, one in found.items()]
    return Claim(
        "How much blocks differ at the start predicts how far SGD falls behind Adam",
        f"rank correlation over {len(found)} networks {spread(ranks)}: {', '.join(words)}",
        verdict(middle >= 0.8, middle >= 0.4),
        tried=tuple(words) if middle < 0.4 else (),
    )


def _text(found: dict[str, dict[str, Tensor]], sizes: Any) -> str:
    rows = []
    for name, one in found.items():
        ends = [way for way, at in zip(("SGD", "Adam"), one["at the edge"], strict=True) if at]
        cells = [spread(one[column]) for column in ("apart", "SGD", "Adam", "gap")]
        rows.append([name, *cells, ", ".join(ends) or "none"])
    head = ["network", "distance between blocks", "loss, SGD", "loss, Adam", "log₁₀ of their ratio",
            "best rate at the end of its grid"]  # fmt: skip
    many = 10 * sizes.examples
    return f"""\
Blocks are weights, with queries, keys and values apart; distances are those of Jensen and Shannon
between histograms over half decades of ±λ in units of the whole's λmax. Full batch,
{sizes.compared} steps of SGD with momentum 0.9 and of Adam. Seed 0 has {len(SGD)} or {len(ADAM)}
learning rates, half a decade apart; every seed takes the best of the best of these and its two
neighbours.

{table(head, rows)}

A perceptron of 16 units learns its 100 digits by some of its layers, so that slow blocks may not
hold it back. Factors are therefore tried where all blocks are needed, softmax regression on
{many:,} digits with a weight for each half of the pixels, times f and 1/f, and a perceptron
49-4-4-10; and for the perceptron with SGD without momentum (f = 1, 4, 16; all learning rates in
every seed). The claim is borne out there where the ratio rises with f and ends above one."""

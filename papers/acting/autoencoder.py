"""A deep autoencoder of digits with sigmoid units and the sparse start of Martens (2010)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from common.keeping import Arrays, Run
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from acting import courses
from acting.settings import Settings

LOSS = F.binary_cross_entropy_with_logits
INCOMING = 15  # weights of a unit that are not zero
BATCH = 100
GRID: dict[str, tuple[Any, ...]] = {  # learning rates that are tried, on seed 0
    "SGD, all": (10.0, 30.0, 100.0),
    "SGD, batches": (2.0, 8.0, 30.0),
    "Adam, all": (3e-3, 1e-2, 3e-2),
    "Adam, batches": (3e-3, 1e-2, 3e-2),
    "NewtonCG": ((12, 10), (12, 4), (50, 4)),  # products at most, share of examples 1/
}
METHODS = *list(GRID)[:-1], "L-BFGS", "NewtonCG"


def network(widths: tuple[int, ...], seed: int) -> nn.Sequential:
    """Logits of pixels."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layer = nn.Linear(i, o)
        with torch.no_grad():
            layer.bias.zero_()
            layer.weight.zero_()
            for row in layer.weight:
                some = torch.randperm(i, generator=generator)[:INCOMING]
                row[some] = torch.randn(len(some), generator=generator)
        layers += [layer, nn.Sigmoid()]
    return nn.Sequential(*layers[:-1])


def steps(name: str, lr: Any, X: Tensor, s: Settings, seed: int, product: float):
    """The network, and its steps by a method."""
    net, data = network(s.widths, seed), (X, X)
    size = len(X) if "all" in name else BATCH
    if name == "NewtonCG":
        most, share = lr
        optimizer = hs.optim.NewtonCG(hs.Problem(net, LOSS, data), max_matvecs=most)
        return net, courses.newton(optimizer, LOSS, data, len(X) // share, product, seed)
    if name == "L-BFGS":
        return net, courses.lbfgs(net, LOSS, data)
    if "SGD" in name:
        first = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    else:
        first = torch.optim.Adam(net.parameters(), lr=lr)
    return net, courses.first_order(net, first, LOSS, data, size, seed)


def course(
    name: str, lr: Any, X: Tensor, s: Settings, seed: int, product: float, *, tuning: bool
) -> Arrays:
    """To the gradients, and but for tuning to the seconds as well."""

    def until(gradients: float, seconds: float, _: int) -> bool:
        return gradients >= s.gradients and (tuning or seconds >= s.seconds)

    net, each = steps(name, lr, X, s, seed, product)
    every = s.gradients / courses.SEEN
    return courses.Course(lambda: LOSS(net(X), X), until, every).run(each)


def tuned(run: Run, X: Tensor, s: Settings, product: float) -> dict[str, Any]:
    """The learning rate, or what stands for it, that ends lowest at the gradients, on seed 0."""
    found = {}
    for name, grid in GRID.items():
        ends = {}
        for lr in grid:
            job = partial(course, name, lr, X, s, 0, product, tuning=True)
            ends[lr] = courses.at(
                _kept(run, f"tuning {name} {lr}", _of(s), job), "gradients", s.gradients
            )
        found[name] = min(ends, key=lambda lr: ends[lr] if ends[lr] == ends[lr] else torch.inf)
    return found


def measure(run: Run, X: Tensor, s: Settings) -> dict[str, list[Arrays]]:
    """Courses of all methods and seeds, and what a product costs."""
    problem = hs.Problem(network(s.widths, 0), LOSS, (X, X))
    cost = _kept(run, "product", _of(s), lambda: courses.product_in_gradients(problem, (X, X)))
    product, found = float(cost["product"]), dict[str, list[Arrays]]()
    rates = tuned(run, X, s, product)
    for name in METHODS:
        found[name] = []
        for seed in range(s.seeds):
            lr = rates.get(name, 1.0)
            job = partial(course, name, lr, X, s, seed, product, tuning=False)
            key = (*_of(s), lr, courses.ITERATIONS if name == "L-BFGS" else 1)
            found[name].append(_kept(run, f"{name} {seed}", key, job))
    return {"courses": found, "rates": rates, "product": product}


def _of(s: Settings) -> tuple[Any, ...]:
    """What these results depend on."""
    return s.widths, s.examples, s.gradients, s.seconds


def _kept(run: Run, name: str, key: Any, job: Any) -> Arrays:
    return run.arrays(f"autoencoder/{name.replace(', ', '-').replace(' ', '-')}", (key, name), job)


def mean_image(X: Tensor) -> float:
    """The loss of the best constant output: where nothing of the input comes through."""
    mean = X.mean(0).clamp(1e-6, 1 - 1e-6).expand_as(X)
    return float(F.binary_cross_entropy(mean, X))


def floor(X: Tensor) -> float:
    """The loss of the images themselves: none is lower."""
    return float(F.binary_cross_entropy(X, X))


def lowest(found: dict[str, list[Arrays]], unit: str, where: float) -> dict[str, Tensor]:
    """The loss of each method at so many gradients or seconds, one for each seed."""
    return {
        name: torch.tensor([courses.at(c, unit, where) for c in runs])
        for name, runs in found.items()
    }


def each(found: dict[str, list[Arrays]]) -> Iterator[tuple[str, Arrays]]:
    """Every course with its method."""
    for name, runs in found.items():
        for one in runs:
            yield name, one

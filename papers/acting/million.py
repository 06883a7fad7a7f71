"""Steps to one loss at a million parameters: Gauss-Newton, Adam, SOAP where it is installed."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from common.keeping import Arrays, Run
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from acting import courses
from acting.settings import Settings

GRID = {"Adam": (1e-3, 3e-3, 1e-2), "SOAP": (1e-2, 3e-2, 1e-1)}
DAMPING, PRODUCTS = 0.1, 30
PRODUCT = 1.4  # gradients


def network(widths: tuple[int, ...], seed: int) -> nn.Sequential:
    """Tanh units, torch's own start."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def first(name: str, net: nn.Module, lr: float) -> Any:
    """Adam or SOAP."""
    if name == "SOAP":
        from pytorch_optimizer import SOAP  # of another project; left out where it is not there

        return SOAP(net.parameters(), lr=lr, weight_decay=0.0, precondition_frequency=1)
    return torch.optim.Adam(net.parameters(), lr=lr)


def methods() -> list[str]:
    """With SOAP if it can be had."""
    there = find_spec("pytorch_optimizer") is not None
    return ["Adam", *(["SOAP"] if there else []), "L-BFGS", "NewtonCG"]


def course(name: str, lr: float, data: tuple[Tensor, Tensor], s: Settings, seed: int, to: float):
    """So many steps, all examples in each, or fewer where the loss is reached."""
    net = network(s.million, seed)
    if name == "NewtonCG":
        problem = hs.Problem(net, F.cross_entropy, data)
        optimizer = hs.optim.NewtonCG(problem, damping=DAMPING, max_matvecs=PRODUCTS)
        steps = courses.newton(optimizer, F.cross_entropy, data, len(data[0]), PRODUCT, seed)
    elif name == "L-BFGS":
        steps = courses.lbfgs(net, F.cross_entropy, data)
    else:
        optimizer = first(name, net, lr)
        steps = courses.first_order(net, optimizer, F.cross_entropy, data, len(data[0]), seed)

    def loss() -> Tensor:
        value = F.cross_entropy(net(data[0]), data[1])
        last[0] = float(value)
        return value

    last = [torch.inf]

    def until(gradients: float, seconds: float, number: int) -> bool:  # noqa: ARG001
        return number >= s.steps or last[0] <= to

    at_once = courses.ITERATIONS if name == "L-BFGS" else 1
    return courses.Course(loss, until, 0.0, at_once).run(steps)


def measure(run: Run, data: tuple[Tensor, Tensor], s: Settings) -> dict[str, Any]:
    """Adam with the best of its learning rates to the end; the others until they are there."""
    there, rates = methods(), {}
    for name in [name for name in there if name in GRID]:
        ends = {}
        for lr in GRID[name]:
            job = partial(course, name, lr, data, s, 0, 0.0)
            ends[lr] = float(_kept(run, f"tuning {name} {lr}", _of(s), job)["loss"][-1])
        rates[name] = min(ends, key=lambda lr: ends[lr] if ends[lr] == ends[lr] else torch.inf)
    found: dict[str, list[Arrays]] = {name: [] for name in there}
    for seed in range(s.seeds):
        for name in there:
            lr = rates.get(name, 1.0)
            to = 0.0 if name == "Adam" else float(found["Adam"][seed]["loss"][-1])
            at_once = courses.ITERATIONS if name == "L-BFGS" else 1
            job = partial(course, name, lr, data, s, seed, to)
            found[name].append(_kept(run, f"{name} {seed}", (*_of(s), lr, to, at_once), job))
    return {"courses": found, "rates": rates}


def to_adams(found: dict[str, list[Arrays]], name: str, unit: str) -> list[float]:
    """Steps, gradients or seconds until the last loss of Adam, inf where it is not reached."""
    reached = []
    for one, adam in zip(found[name], found["Adam"], strict=True):
        there = one["loss"] <= adam["loss"][-1]
        reached.append(float(one[unit][there][0]) if bool(there.any()) else torch.inf)
    return reached


def size(s: Settings) -> int:
    """Of θ."""
    return sum(p.numel() for p in network(s.million, 0).parameters())


def _of(s: Settings) -> tuple[Any, ...]:
    """What these results depend on."""
    return s.million, s.images, s.steps


def _kept(run: Run, name: str, key: Any, job: Any) -> Arrays:
    return run.arrays(f"million/{name.replace(', ', '-').replace(' ', '-')}", (key, name), job)

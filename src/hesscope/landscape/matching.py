"""Units of one network permuted to match another's: weight matching (Ainsworth et al. 2023).

Hidden units have no order. Two networks may be one up to a permutation, with a high barrier on the
straight line between them. The permutations that bring the weights nearest together are found
layer by layer, each by an assignment problem, until none changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from hesscope import probes, rounding
from hesscope.landscape.ends import End
from hesscope.landscape.height import height
from hesscope.landscape.symmetries import input_dim, is_layer, is_norm, num_inputs, num_outputs
from hesscope.problem.problem import Problem

ROUNDS = 50  # of all layers; it stops when none changes
Part = tuple[str, int, int]  # tensor, its dimension, entries of it for a unit


@dataclass(frozen=True)
class Group:
    """Units that can be permuted: what makes them, what normalises them, what reads them."""

    name: str
    units: int
    parts: tuple[Part, ...]


def match_units(problem: Problem, a: End, b: End) -> tuple[End, tuple[str, ...]]:
    """The end b with its units permuted towards a, the same network; and the groups that were.

    Layers in the order of the modules whose units can be permuted without changing the loss: all
    hidden ones of perceptrons and plain convolutional networks, those inside the blocks of residual
    networks. It is a local optimum: the nearest permutation of all layers together is hard to find.
    Costs two losses for each group, and no gradient.

    Raises:
        RuntimeError: if SciPy is not installed.
    """
    groups = list(_groups(problem, b))
    mine, theirs = _tensors(problem, a), _tensors(problem, b)
    orders = {group.name: torch.arange(group.units) for group in groups}
    for _ in range(ROUNDS):
        changed = False
        for group in groups:
            order = _assignment(group, mine, theirs)
            if not torch.equal(order, torch.arange(group.units)):
                theirs = _permuted(group, theirs, order)
                orders[group.name] = orders[group.name][order]
                changed = True
        if not changed:
            break
    theta = torch.cat([theirs[name].reshape(-1) for name in problem.layout.names])
    buffers = None if b.buffers is None else {name: theirs[name] for name in b.buffers}
    told = tuple(
        f"{name}: {int((order != torch.arange(len(order))).sum())} of {len(order)} units moved"
        for name, order in orders.items()
    )
    return replace(b, theta=theta, buffers=buffers), told


def _groups(problem: Problem, b: End) -> Iterator[Group]:
    """The units that may be permuted without changing the loss at b."""
    there = problem.at(b.theta).with_buffers(b.buffers or {})
    loss = there.loss()
    tolerance = rounding.half_the_digits(problem.dtype) * max(abs(loss), 1.0)
    tensors = _tensors(problem, b)
    modules = [(n, m) for n, m in problem.model.named_modules() if is_layer(m) or is_norm(m)]
    layers = [(i, n, m) for i, (n, m) in enumerate(modules) if is_layer(m)]
    for (i, name, layer), (j, after, following) in pairwise(layers):
        units, inputs = num_outputs(layer), num_inputs(following)
        if inputs % units or getattr(following, "groups", 1) != 1:
            continue
        names = [(name, layer), *modules[i + 1 : j]]
        parts = [part for n, m in names for part in _rows(n, m)]
        parts.append((f"{after}.weight".lstrip("."), input_dim(following), inputs // units))
        known = tuple(part for part in parts if part[0] in tensors)
        if len(known) < len(parts):  # frozen in part
            continue
        group = Group(f"{name} -> {after}", units, known)
        order = torch.randperm(
            units, generator=torch.Generator().manual_seed(probes.key(0, "order of units"))
        )
        moved = _permuted(group, tensors, order)
        theta = torch.cat([moved[n].reshape(-1) for n in problem.layout.names])
        tried = there.with_buffers({n: moved[n] for n in b.buffers or {}})
        if abs(height(tried, theta) - loss) <= tolerance:
            yield group


def _rows(name: str, module: nn.Module) -> list[Part]:
    """The tensors of a layer or a normalisation that have a row for each unit."""
    dim = 1 if "Transpose" in type(module).__name__ and is_layer(module) else 0
    own = {**module._parameters, **module._buffers}
    return [
        (f"{name}.{key}".lstrip("."), dim if key == "weight" else 0, 1)
        for key, tensor in own.items()
        if tensor is not None and tensor.ndim > 0
    ]


def _tensors(problem: Problem, end: End) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    split = problem.layout.split(end.theta)
    return {**dict(zip(problem.layout.names, split, strict=True)), **(end.buffers or {})}


def _by_unit(group: Group, tensor: Tensor, part: Part) -> Tensor:
    """(units, rest)."""
    _, dim, repeats = part
    rows = tensor.movedim(dim, 0)
    return rows.reshape(group.units, repeats * (rows[0].numel() or 1))


def _assignment(group: Group, mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
    """order, such that their unit order[i] is to be unit i: the largest sum of inner products.

    Raises:
        RuntimeError: if SciPy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment  # an optional dependency
    except ImportError as error:
        msg = "matching units needs SciPy: pip install scipy."
        raise RuntimeError(msg) from error
    alike = torch.zeros(group.units, group.units, dtype=torch.float64)
    for part in group.parts:
        if part[0] in mine and "running_" not in part[0]:
            a, b = (_by_unit(group, t[part[0]].double().cpu(), part) for t in (mine, theirs))
            alike += a @ b.T
    _, order = linear_sum_assignment(alike.numpy(), maximize=True)
    found = torch.from_numpy(order)
    here = torch.arange(group.units)
    gain = alike[here, found].sum() - alike.diagonal().sum()
    return found if gain > 1e-9 * alike.abs().max() else here


def _permuted(group: Group, tensors: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """The tensors with their units in this order."""
    moved = dict(tensors)
    for name, dim, repeats in group.parts:
        rows = (order[:, None] * repeats + torch.arange(repeats)).flatten()
        moved[name] = tensors[name].index_select(dim, rows.to(tensors[name].device))
    return moved

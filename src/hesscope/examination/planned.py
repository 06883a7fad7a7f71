"""A measurement planned for any number of processes: bytes counted, seconds timed, a way chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

import torch

from hesscope import probes
from hesscope.autodiff.footprint import Footprint, Kind, footprint, largest_batch
from hesscope.curvature.hessian import Hessian
from hesscope.examination.budget import (
    BUILDING,
    GRADIENTS,
    LOCKED,
    SPARE,
    Size,
    Task,
    Way,
    chosen,
    phases_of,
    told,
    ways,
)
from hesscope.examination.timing import orthogonalising, seconds
from hesscope.krylov.noise import PROBES
from hesscope.problem.problem import Problem
from hesscope.system import collectives
from hesscope.system.mapped import folder_on_disk, free_on_disk
from hesscope.system.memory import available_bytes

USUAL = {"product": 1, "density": 100}  # products of a task
KINDS: dict[str, tuple[Kind, ...]] = {
    "auto": tuple(GRADIENTS),
    "reverse-over-reverse": ("graph kept", "graph rebuilt"),
    "lean": ("lean",),
}
PRODUCTS: dict[Kind, tuple[str, int | None]] = {
    "graph kept": ("ror", None),
    "graph rebuilt": ("ror", 0),
    "lean": ("lean", None),
}


@dataclass(frozen=True)
class Planned:
    """A way, what it costs in each process, and the others."""

    way: Way
    ways: list[Way]
    size: Size
    task: Task
    locked: int  # vectors of a search
    num_matvecs: int
    weights: int
    counted: Footprint
    free: float
    problem: str
    gradients: float = 0.0  # of all of the data
    seconds: float = 0.0  # in each process
    of_gradient: float = 0.0  # likewise, of all of the data in one


def weighed(
    problem: Problem,
    task: Task,
    num_matvecs: int | None,
    k: int,
    processes: int,
    product: str = "auto",
    *,
    verify: bool = True,
) -> Planned:
    """The fastest way that fits, not yet timed; if none does, the one with the least memory.

    Raises:
        ValueError: for an unknown task or product, a model without lean products where they are
            asked for, fewer than one process, or in one of several.
        RuntimeError: if the loss cannot be differentiated twice.
    """
    if task not in get_args(Task):
        msg = f"task={task!r}; choose one of {', '.join(map(repr, get_args(Task)))}."
        raise ValueError(msg)
    if processes < 1:
        msg = f"processes={processes}: at least one has to look."
        raise ValueError(msg)
    if product not in KINDS:
        msg = f"product={product!r}; a plan knows {', '.join(map(repr, KINDS))}."
        raise ValueError(msg)
    collectives.refuse_several("a plan for other processes than these")
    locked = k + SPARE * verify if task == "eigsh" else 0
    num = num_matvecs or USUAL.get(task, 2 * k + 26)
    size = _size(problem, processes)
    counted = footprint(problem)
    found = _allowed(
        ways(counted, size, phases_of(task, num, k, size.n, verify=verify)), task, product
    )
    if not found:
        msg = f"no lean product of this model: {counted.why_not_lean or 'it has no blocks'}."
        raise ValueError(msg)
    free = float(available_bytes(problem.device))
    on_disk = float(free_on_disk(folder_on_disk()))
    way = chosen(found, free, on_disk)
    trouble = "" if way else told(found, free, on_disk)
    way = way or min(found, key=lambda each: each.memory)
    tensors = [*problem.model.parameters(), *problem.model.buffers()]
    weights = sum(t.numel() * t.element_size() for t in tensors)
    return Planned(way, found, size, task, locked, num, weights, counted, free, trouble)


def timed(problem: Problem, plan: Planned, way: Way) -> Planned:
    """With the time that a way takes: a first product, all others, and the basis.

    Timed where the way fits in one process that has all of the data; else a number of operations.
    """
    size, num = plan.size, plan.num_matvecs
    whole, largest = len(problem.batches), largest_batch(problem)[1]
    gradient = sorted(seconds(problem.gradient) for _ in range(3))[1]
    product, memory = PRODUCTS[way.kind]
    H = Hessian(problem, product, memory=memory)
    if plan.counted.most(way.kind, largest, whole) <= plan.free:
        v = H.probe(probes.key(0, "forecast"))
        first = seconds(lambda: H @ v)
        each = sorted(seconds(lambda: H @ v) for _ in range(3))[1]
    else:
        each = GRADIENTS[way.kind] * gradient
        first = each + BUILDING * gradient
    products = first + (num - 1) * each
    basis = 0.0
    if num > 1:
        locked = plan.locked or num // LOCKED
        basis = orthogonalising(H, num, locked) / size.processes + _against_float64(H, plan.task)
    share = size.batch * size.batches / (largest * whole)
    return replace(
        plan,
        way=way,
        gradients=products / gradient,
        seconds=share * products + basis,
        of_gradient=gradient,
    )


def _against_float64(H: Hessian, task: Task) -> float:
    """Products that are compared with float64: one, and some at once where digits cancel."""
    if task == "diagnose" or H.precision is torch.float64:
        return 0.0
    V = torch.stack([H.probe(probes.key(0, "forecast", i)) for i in range(PROBES)], 1)
    one = min(seconds(lambda: H.measured_noise(V[:, 0])) for _ in range(2))
    return one + seconds(lambda: H.measured_noise(V))


def _allowed(found: Iterator[Way], task: Task, product: str) -> list[Way]:
    """Those with such a product; an examination keeps its vectors in memory."""
    places = ("memory",) if task == "diagnose" else ("memory", "disk")
    return [way for way in found if way.kind in KINDS[product] and way.place in places]


def _size(problem: Problem, processes: int) -> Size:
    """As one of so many processes would see it: batches shared out, or cut where there are few."""
    batches, largest = len(problem.batches), largest_batch(problem)[1]
    share = -(-batches // processes)
    cut = max(1.0, processes / batches)
    batch = largest if share > 1 or cut == 1 else -(-largest // cut)
    return Size(problem.n, problem.dtype.itemsize, batch, share, processes, batch * share)

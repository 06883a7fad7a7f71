"""The loss at many points of a plane: the ways to get it, the fastest of which is raced for.

One by one is always right and is the judge of the others. All the points on one batch share the
surroundings of an evaluation and what `Shared` computes once for all; batches cut small stay in the
processor's cache; and a stack of points goes through the model at once (torch.func.vmap), which
pays where the work of one is too small to fill the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.landscape.perceptrons import losses_of, perceptron_in
from hesscope.landscape.shared import Shared
from hesscope.perceptron.mlp import MLP
from hesscope.problem.contents import tensors_in
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.examples import num_examples, take
from hesscope.problem.parameters import substituted
from hesscope.problem.problem import Problem
from hesscope.system import collectives, progress
from hesscope.system.memory import available_bytes

ALONE = "one by one"
GROUP = 128  # points between two reports and savings
SMALL = 128  # examples to which batches are cut
FEW, SAMPLE = 500, 4  # points below which no race pays, and that are run to choose
STACKS = (8, 64)  # points that go through the model at once
SHARE = 4  # of the free memory, one part in so many may be taken by a stack


@dataclass(frozen=True, eq=False)
class Plane:
    """The points origin + Σ c_i vectors_i of a problem's parameter space."""

    problem: Problem
    origin: Tensor  # (n,)
    vectors: Tensor  # (n, k)

    def point(self, c: Tensor) -> Tensor:
        """Theta (n,) at coordinates c (k,), exactly the origin at zero."""
        return torch.addmv(self.origin, self.vectors, c.to(self.vectors))


Way = Callable[[Plane, Tensor], Tensor]  # coordinates (m, k) -> losses (m,) float64


def losses_on(
    plane: Plane, coordinates: Tensor, label: str, done: Callable[[int, Tensor], None]
) -> str:
    """Measures the mean loss at each point (m, k), inf and NaN included; returns the way it did.

    `done(start, losses)` gets every group of points that is finished, as float64.
    """
    m = len(coordinates)
    way, name = fastest(plane, coordinates)
    group = GROUP if plane.problem.batches.cached else m  # data that is read again is read once
    for start in range(0, m, group):
        done(start, way(plane, coordinates[start : start + group]))
        progress.report(label, min(start + group, m), m)
    return name


def fastest(plane: Plane, coordinates: Tensor) -> tuple[Way, str]:
    """The fastest way that gives the losses that one by one gives, and its name.

    Measured and compared on a few of the points themselves: at the ends, where the loss is largest.
    """
    problem = plane.problem
    alone = collectives.num_processes() == 1 and problem.point.half is None
    if not alone or len(coordinates) < 2:
        return one_by_one, ALONE
    sample = coordinates[
        torch.linspace(0, len(coordinates) - 1, SAMPLE, dtype=torch.float64).long()
    ]
    mlp = perceptron_in(problem)
    way: Way = shared if mlp is None else partial(_as_perceptron, mlp)
    name = "shared work" if mlp is None else "as a perceptron"
    if len(coordinates) < FEW:
        fits = _Trial(plane, sample[[0, -1]]).fits(way)
        return (way, name) if fits else (one_by_one, ALONE)
    trial = _Trial(plane, sample)
    trial.run(name, way)
    if mlp is not None:
        return trial.ways[trial.best], trial.description()
    if _is_cut(problem):
        trial.run(f"shared work on {SMALL} examples at a time", shared_cut)
    for num in STACKS:
        name = f"stacks of {num} points"
        if _fits(plane, num) and (num == min(STACKS) or trial.best.startswith("stacks")):
            trial.run(name, _stacks_of(num), num)
    return trial.ways[trial.best], trial.description()


class _Trial:
    """The ways that give what one by one gives at a few points (m, k), and how fast each is."""

    def __init__(self, plane: Plane, points: Tensor) -> None:
        self.plane, self.points = plane, points
        self.ways: dict[str, Way] = {ALONE: one_by_one}
        self.expected, seconds = self._timed(one_by_one, points)
        self.times = {ALONE: seconds / len(points)}

    @property
    def best(self) -> str:
        """The name of the fastest."""
        return min(self.times, key=self.times.__getitem__)

    def description(self) -> str:
        """Its name, and how much faster than one by one it was here."""
        gain = self.times[ALONE] / self.times[self.best]
        return ALONE if self.best == ALONE else f"{self.best}, {gain:.1f} x {ALONE}"

    def fits(self, way: Way, times: int = 1) -> bool:
        """Whether a way gives the expected; what the user's code cannot do so, it need not."""
        try:
            found = way(self.plane, self.points.repeat(times, 1))
        except (ValueError, RuntimeError, TypeError, AttributeError):
            return False
        tolerance = rounding.recomputed(self.plane.origin.dtype) / 20
        expected = self.expected.repeat(times)
        return torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)

    def run(self, name: str, way: Way, num: int = 2 * SAMPLE) -> None:
        """Takes the way into the race, with so many points at least, if it gives the expected."""
        times = -(-num // len(self.points))
        if self.fits(way, times):
            _, seconds = self._timed(way, self.points.repeat(times, 1))
            self.ways[name], self.times[name] = way, seconds / (times * len(self.points))

    def _timed(self, way: Way, points: Tensor) -> tuple[Tensor, float]:
        """Losses, and seconds: of work on a CPU, which neighbours do not lengthen."""
        on_cpu = self.plane.origin.device.type == "cpu"
        clock = time.process_time if on_cpu else time.perf_counter
        start = clock()
        found = way(self.plane, points)
        return found, max(clock() - start, 1e-9)


def one_by_one(plane: Plane, coordinates: Tensor) -> Tensor:
    """As `problem.loss_at` has it."""
    losses = [plane.problem.loss_at(plane.point(c)) for c in coordinates]
    return torch.tensor(losses, dtype=torch.float64)


def shared(plane: Plane, coordinates: Tensor) -> Tensor:
    """Each batch once for all points, with what they have in common computed once."""
    problem = plane.problem.at(plane.origin)
    total = torch.zeros(len(coordinates), dtype=torch.float64)
    moved, pieces = coordinates.to(plane.vectors), _pieces(plane)
    with problem.evaluation() as e:
        for batch in e.batches:
            common = Shared(tensors_in(batch.content))
            with e.values(batch) as value:
                found = []
                for c, numbers in zip(moved, coordinates.tolist(), strict=True):
                    torch._foreach_copy_(e.leaves, problem.layout.split(plane.point(c)))
                    common.stands_at(e.leaves, pieces, numbers)
                    with common if common.pays else nullcontext():
                        found.append(value().reshape(()))
            total += (batch.count / e.num_items) * torch.stack(found).double().cpu()
    return total


def _pieces(plane: Plane) -> list[tuple[Tensor, ...]]:
    """The origin and the vectors of the plane in the shapes of the parameters."""
    split = plane.problem.layout.split
    return list(zip(split(plane.origin), *map(split, plane.vectors.T.contiguous()), strict=True))


def shared_cut(plane: Plane, coordinates: Tensor) -> Tensor:
    """The same with every batch cut into small ones, which is right if examples do not mix."""
    contents = []
    for batch in plane.problem.batches:
        num = num_examples(batch.content)
        contents += [take(batch.content, slice(i, i + SMALL)) for i in range(0, num, SMALL)]
    return shared(replace(plane, problem=plane.problem.with_batches(contents)), coordinates)


def _as_perceptron(mlp: MLP, plane: Plane, coordinates: Tensor) -> Tensor:
    """In matrix products of our own."""
    return losses_of(mlp, plane.origin, plane.vectors, coordinates)


def _stacks_of(num: int) -> Way:
    """So many points at once through the model, which is traced once for all (torch.func.vmap)."""

    def stacked(plane: Plane, coordinates: Tensor) -> Tensor:
        problem = plane.problem.at(plane.origin)
        total = torch.zeros(len(coordinates), dtype=torch.float64)
        with problem.evaluation() as e:
            for batch in e.batches:
                common = Shared(tensors_in(batch.content))
                with e.values(batch) as value:
                    one = partial(_loss_at, plane, e, common, value)
                    parts = [torch.func.vmap(one)(c) for c in coordinates.split(num)]
                total += (batch.count / e.num_items) * torch.cat(parts).double().cpu()
        return total

    return stacked


def _loss_at(
    plane: Plane, e: Evaluation, common: Shared, value: Callable[[], Tensor], c: Tensor
) -> Tensor:
    """The loss of one batch at coordinates c (k,), for a function transform to stack."""
    c = c.to(plane.vectors)
    leaves = e.point.layout.split(plane.origin + plane.vectors @ c)
    named = dict(zip(e.point.layout.names, leaves, strict=True))
    common.stands_at(leaves, _pieces(plane), c.unbind())
    with substituted(e.model, named), common:
        return value().reshape(())


def _is_cut(problem: Problem) -> bool:
    """Whether some batch is large, and its examples can be told apart."""
    if not problem.batches.cached:
        return False
    try:
        return any(num_examples(batch.content) > 2 * SMALL for batch in problem.batches)
    except ValueError:
        return False


def _fits(plane: Plane, num: int) -> bool:
    """Whether a stack of weights, and of activations as large as the data for each, fits."""
    data = max(
        sum(t.numel() * t.element_size() for t in tensors_in(batch.content))
        for batch in plane.problem.batches
    )
    size = plane.origin.numel() * plane.origin.element_size()
    needed = num * (2 * size + 8 * data)
    return needed < available_bytes(plane.origin.device) / SHARE

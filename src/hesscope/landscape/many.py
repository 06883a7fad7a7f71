"""The loss at many points of a plane: the ways to get it, the fastest of which is raced for.

One by one is always right and is the judge of the others. All the points on one batch share the
surroundings of an evaluation and what `Shared` computes once for all; convolutions are folded with
what follows them; batches cut small stay in the processor's cache; and a stack of points goes
through the model at once (torch.func.vmap), which pays where the work of one is too small to fill
the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.landscape.convolutions import DivergedError, Folding, convolutions_in, folded
from hesscope.landscape.perceptrons import losses_of, perceptron_in
from hesscope.landscape.shared import WIDE, Shared
from hesscope.perceptron.mlp import MLP
from hesscope.problem.contents import tensors_in
from hesscope.problem.data import Batch, Batches
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.examples import num_examples, take
from hesscope.problem.parameters import substituted
from hesscope.problem.problem import Problem
from hesscope.system import collectives, progress
from hesscope.system.memory import available_bytes

ALONE, SHARED, FOLDED = "one by one", "shared work", "folded convolutions"
PERCEPTRON, AT_A_TIME = "as a perceptron", " on {} examples at a time"
GROUP = 128  # points between two reports and savings
CUTS = (32, 128)  # examples to which batches are cut
FEW, SAMPLE = 500, 4  # points from which on so many are run to choose, and two below
TRIED = 20  # one point of so many may go into choosing
QUICK, LONG = 0.05, 0.05  # seconds of a run that is run again; of a point that needs no stack
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


@dataclass(frozen=True)
class Fold:
    """How convolutions are folded: with their channels last, or in the order that they have."""

    last: bool


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
        some = coordinates[start : start + group]
        try:
            losses = way(plane, some)
        except DivergedError:  # far away the model goes another way through its layers
            way, name = one_by_one, ALONE
            losses = way(plane, some)
        done(start, losses)
        progress.report(label, min(start + group, m), m)
    return name


def fastest(plane: Plane, coordinates: Tensor) -> tuple[Way, str]:
    """The fastest way that gives the losses that one by one gives, and its name.

    Measured and compared on a few of the points themselves: at the ends, where the loss is largest.
    """
    m, alone = len(coordinates), collectives.num_processes() == 1
    if not alone or plane.problem.point.half is not None or m < 2:
        return one_by_one, ALONE
    sample = coordinates[torch.linspace(0, m - 1, SAMPLE if m >= FEW else 2).long()]
    trial = _Trial(plane, sample)
    left = max(len(sample), m // TRIED)
    for name, way, num in _candidates(plane, trial):
        left -= max(num, len(sample))
        if left < 0:
            break
        trial.run(name, way, num)
    return trial.ways[trial.best], trial.description()


def _candidates(plane: Plane, trial: _Trial) -> Iterator[tuple[str, Way, int]]:
    """Ways to try, the likeliest first, with the points that each needs to show what it can."""
    problem, mlp = plane.problem, perceptron_in(plane.problem)
    if mlp is not None:
        yield PERCEPTRON, partial(_as_perceptron, mlp), 1
        if trial.best == PERCEPTRON:
            return
    cuts = [size for size in CUTS if _is_cut(problem, size)]
    if _are_pictures(problem):
        yield from _folded_ways(cuts, trial)
    yield SHARED, shared, 1
    for size in cuts[-1:]:
        yield SHARED + AT_A_TIME.format(size), partial(shared, size=size), 1
    for num in STACKS if mlp is None and trial.times[ALONE] < LONG else ():
        name = f"stacks of {num} points"
        if _fits(plane, num) and (num == min(STACKS) or trial.best.startswith("stacks")):
            yield name, _stacks_of(num), num


def _folded_ways(cuts: list[int], trial: _Trial) -> Iterator[tuple[str, Way, int]]:
    """With convolutions folded, in batches of several sizes."""
    last = True
    for size in (*cuts, None):
        name = FOLDED if size is None else FOLDED + AT_A_TIME.format(size)
        yield name, partial(shared, size=size, fold=Fold(last=last)), 1
        if last and name not in trial.times:  # views may count on the order of the entries
            last = False
            yield name, partial(shared, size=size, fold=Fold(last=last)), 1


class _Trial:
    """The ways that give what one by one gives at a few points (m, k), and how fast each is."""

    def __init__(self, plane: Plane, points: Tensor) -> None:
        self.plane, self.points = plane, points
        self.ways: dict[str, Way] = {ALONE: one_by_one}
        self.expected, seconds = self._timed(one_by_one, points)
        if seconds < QUICK:
            _, seconds = self._timed(one_by_one, points)
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
        except (ValueError, RuntimeError, TypeError, AttributeError, DivergedError):
            return False
        tolerance = rounding.recomputed(self.plane.origin.dtype) / 20
        expected = self.expected.repeat(times)
        return torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)

    def run(self, name: str, way: Way, num: int = 1) -> None:
        """Takes the way into the race, with so many points at least, if it gives the expected."""
        times = -(-num // len(self.points))
        start = self._clock()
        if not self.fits(way, times):
            return
        seconds = self._clock() - start
        if seconds < QUICK:  # and the first run may have cost more than those to come
            _, seconds = self._timed(way, self.points.repeat(times, 1))
        self.ways[name], self.times[name] = way, seconds / (times * len(self.points))

    def _timed(self, way: Way, points: Tensor) -> tuple[Tensor, float]:
        start = self._clock()
        found = way(self.plane, points)
        return found, max(self._clock() - start, 1e-9)

    def _clock(self) -> float:
        """Seconds: of work on a CPU, which neighbours do not lengthen."""
        on_cpu = self.plane.origin.device.type == "cpu"
        return time.process_time() if on_cpu else time.perf_counter()


def one_by_one(plane: Plane, coordinates: Tensor) -> Tensor:
    """As `problem.loss_at` has it."""
    losses = [plane.problem.loss_at(plane.point(c)) for c in coordinates]
    return torch.tensor(losses, dtype=torch.float64)


def shared(
    plane: Plane, coordinates: Tensor, size: int | None = None, fold: Fold | None = None
) -> Tensor:
    """Each point on all batches that are held, with what they have in common computed once.

    Batches cut to a size are right if examples do not mix.
    """
    plane = plane if size is None else _cut(plane, size)
    problem = plane.problem.at(plane.origin)
    total = torch.zeros(len(coordinates), dtype=torch.float64)
    moved, pieces = coordinates.to(plane.vectors), _pieces(plane)
    with problem.evaluation() as e, _folding(e, fold) as folding, e.values() as value:
        for block in _blocks(e.batches):
            common = Shared([t for batch in block for t in tensors_in(batch.content)])
            weights = torch.tensor([b.count / e.num_items for b in block], dtype=torch.float64)
            for i, numbers in enumerate(coordinates.tolist()):
                torch._foreach_copy_(e.leaves, problem.layout.split(plane.point(moved[i])))
                folding.moves()
                common.stands_at(e.leaves, pieces, numbers)
                found = []
                for batch in block:
                    with common if common.pays else nullcontext():
                        found.append(value(batch).reshape(()))
                    folding.check()
                total[i] += weights @ torch.stack(found).double().cpu()
    return total


@contextmanager
def _folding(e: Evaluation, fold: Fold | None) -> Iterator[Folding]:
    """The model with its convolutions folded, if asked."""
    if fold is None:
        yield Folding()
        return
    batch = next(iter(e.batches))
    data = {t.untyped_storage().data_ptr() for t in tensors_in(batch.content)}

    def is_shared(x: Tensor, weight: Tensor) -> bool:
        return weight[0].numel() >= WIDE and x.untyped_storage().data_ptr() in data

    with e.values() as value:
        found = convolutions_in(e.model, partial(value, batch), is_shared)
    with folded(e.model, found, last=fold.last) as folding:
        yield folding


def _blocks(batches: Batches) -> Iterator[list[Batch]]:
    """All batches where they are held in memory, else one after the other."""
    if batches.cached:
        yield list(batches)
    else:
        yield from ([batch] for batch in batches)


def _pieces(plane: Plane) -> list[tuple[Tensor, ...]]:
    """The origin and the vectors of the plane in the shapes of the parameters."""
    split = plane.problem.layout.split
    return list(zip(split(plane.origin), *map(split, plane.vectors.T.contiguous()), strict=True))


def _cut(plane: Plane, size: int) -> Plane:
    """The same plane on batches of so many examples."""
    contents = []
    for batch in plane.problem.batches:
        num = num_examples(batch.content)
        contents += [take(batch.content, slice(i, i + size)) for i in range(0, num, size)]
    return replace(plane, problem=plane.problem.with_batches(contents))


def _as_perceptron(mlp: MLP, plane: Plane, coordinates: Tensor) -> Tensor:
    """In matrix products of our own."""
    return losses_of(mlp, plane.origin, plane.vectors, coordinates)


def _stacks_of(num: int) -> Way:
    """So many points at once through the model, which is traced once for all (torch.func.vmap)."""

    def stacked(plane: Plane, coordinates: Tensor) -> Tensor:
        problem = plane.problem.at(plane.origin)
        total = torch.zeros(len(coordinates), dtype=torch.float64)
        with problem.evaluation() as e, e.values() as value:
            for batch in e.batches:
                common = Shared(tensors_in(batch.content))
                one = partial(_loss_at, plane, e, common, partial(value, batch))
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


def _is_cut(problem: Problem, size: int) -> bool:
    """Whether some batch is larger, and its examples can be told apart."""
    if not problem.batches.cached:
        return False
    try:
        return any(num_examples(batch.content) > size for batch in problem.batches)
    except ValueError:
        return False


def _are_pictures(problem: Problem) -> bool:
    """Whether the data has channels of two or three dimensions."""
    first = next(iter(problem.batches))
    return any(t.ndim > 3 and t.is_floating_point() for t in tensors_in(first.content))


def _fits(plane: Plane, num: int) -> bool:
    """Whether a stack of weights, and of activations as large as the data for each, fits."""
    data = max(
        sum(t.numel() * t.element_size() for t in tensors_in(batch.content))
        for batch in plane.problem.batches
    )
    size = plane.origin.numel() * plane.origin.element_size()
    needed = num * (2 * size + 8 * data)
    return needed < available_bytes(plane.origin.device) / SHARE

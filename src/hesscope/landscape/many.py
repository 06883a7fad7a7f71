"""The losses at the points of a grid by the fastest way, which is raced for, in several processes.

One by one is always right, and the judge of the other ways on a few of the points.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.landscape.convolutions import DivergedError
from hesscope.landscape.perceptrons import perceptron_in
from hesscope.landscape.spread import Spread
from hesscope.landscape.ways import (
    Fold,
    Plane,
    Way,
    as_perceptron,
    one_by_one,
    shared,
    stacks_of,
)
from hesscope.problem.contents import tensors_in
from hesscope.problem.examples import num_examples
from hesscope.problem.problem import Problem
from hesscope.system import collectives, progress
from hesscope.system.memory import available_bytes

ALONE, SHARED, FOLDED = "one by one", "shared work", "folded convolutions"
PERCEPTRON, AT_A_TIME = "as a perceptron", " on {} examples at a time"
GROUP, UNIT = 128, 32  # points between two reports and savings; that are a process's at a time
CUTS = (32, 128)  # examples to which batches are cut
FEW, SAMPLE = 500, 4  # points from which on so many are run to choose, and two below
TRIED = 20  # one point of so many may go into choosing
QUICK, LONG = 0.05, 0.05  # seconds of a run that is run again; of a point that needs no stack
STACKS = (8, 64)  # points that go through the model at once
SHARE = 4  # of the free memory, one part in so many may be taken by a stack


def losses_on(
    plane: Plane,
    grid: Tensor,
    missing: Tensor,
    label: str,
    done: Callable[[Tensor, Tensor], None],
    way: Way | None = None,
    workers: int | None = None,
) -> str:
    """Measures the mean loss at the missing points of a grid (m, k), inf and NaN included.

    `done(indices, losses)` gets every group of points that is finished, as float64. A way may be
    given. With workers the way is the first that gives the same as one by one, not the fastest, and
    groups are cut at the same places of the grid, so that every number of them gives the same bits.

    Returns:
        How it was done.
    """
    name = "one by one, with statistics of its own for each"
    if way is None:
        way, name = fastest(plane, grid[missing], timed=workers is None)
    size = GROUP if workers is None else UNIT
    if not plane.problem.batches.cached:  # data that is read again is read once
        size = len(grid)
    groups = [missing[missing // size == i] for i in (missing // size).unique().tolist()]
    spread = Spread.of(plane, workers)
    points = 0
    for i, losses in spread.over(partial(_careful, way, plane), [grid[g] for g in groups]):
        done(groups[i], losses)
        points += len(losses)
        progress.report(label, points, len(missing))
    return name + spread.words


def _careful(way: Way, plane: Plane, coordinates: Tensor) -> Tensor:
    """What a way gives; one by one where the model goes another way through its layers there."""
    try:
        return way(plane, coordinates)
    except DivergedError:
        return one_by_one(plane, coordinates)


def fastest(plane: Plane, coordinates: Tensor, *, timed: bool = True) -> tuple[Way, str]:
    """The fastest way that gives the losses that one by one gives, and its name.

    Measured and compared on a few of the points themselves: at the ends, where the loss is largest.
    Not timed, or of few points, whose trial would cost more than it gains: the likeliest to be the
    fastest, which is the same every time.
    """
    m, alone = len(coordinates), collectives.num_processes() == 1
    if not alone or plane.problem.point.half is not None or m < 2:
        return one_by_one, ALONE
    sample = coordinates[
        torch.linspace(0, m - 1, SAMPLE if m >= FEW else 2, dtype=torch.float64).long()
    ]
    trial = _Trial(plane, sample)
    left = max(len(sample), m // TRIED)
    for name, way, num in _candidates(plane, trial):
        left -= max(num, len(sample))
        if left < 0:
            break
        trial.run(name, way, num)
        if (not timed or m < FEW) and name in trial.ways:
            return way, name
    return trial.ways[trial.best], trial.description()


def _candidates(plane: Plane, trial: _Trial) -> Iterator[tuple[str, Way, int]]:
    """Ways to try, the likeliest first, with the points that each needs to show what it can."""
    problem, mlp = plane.problem, perceptron_in(plane.problem)
    if mlp is not None:
        yield PERCEPTRON, partial(as_perceptron, mlp), 1
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
            yield name, stacks_of(num), num


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


def _is_cut(problem: Problem, size: int) -> bool:
    """Whether some batch is larger than is good for a processor's cache, and can be cut."""
    if not problem.batches.cached or problem.device.type != "cpu":
        return False
    try:
        return any(num_examples(batch.content) > size for batch in problem.batches)
    except ValueError:
        return False


def _are_pictures(problem: Problem) -> bool:
    """Whether the data has channels of two or three dimensions."""
    first = problem.batches.first
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

"""What products of each kind take in memory, counted on a few examples and drawn out to all.

At each moment of a product bytes grow as a line in the number of examples: what belongs to
parameters, and what belongs to examples. So two counts of its course tell that of a batch which
could not be held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from hesscope import probes
from hesscope.autodiff.blocks import blocks_of
from hesscope.autodiff.dual import LeanError
from hesscope.autodiff.lean import SHARE, Lean
from hesscope.autodiff.reverse import ReverseOverReverse
from hesscope.problem.calls import NonFiniteLossError
from hesscope.problem.data import Batch
from hesscope.problem.examples import num_examples, take
from hesscope.problem.problem import Problem
from hesscope.system.alive import bytes_in_course

Kind = Literal["graph kept", "graph rebuilt", "lean"]
PARTS = 8, 4  # of a batch, on which bytes are counted
WIDE = 1 << 62  # room for graphs, whatever they take


@dataclass(frozen=True)
class Lines:
    """The most of several lines a + b x, as x is the number of examples."""

    at_one: tuple[float, ...]
    slopes: tuple[float, ...]

    @classmethod
    def through(cls, counts: dict[int, list[int]]) -> Lines:
        """Through the bytes at every moment of two runs, which do the same; or of one, all level.

        Runs that differ in what they do are known by their most.
        """
        (x, first), (y, last) = min(counts.items()), max(counts.items())
        if len(first) != len(last):
            first, last = [max(first)], [max(last)]
        slopes = [(v - u) / (y - x) if y > x else 0.0 for u, v in zip(first, last, strict=True)]
        return cls(
            tuple(u - b * (x - 1) for u, b in zip(first, slopes, strict=True)), tuple(slopes)
        )

    def __call__(self, examples: float) -> float:
        """Bytes for so many examples."""
        lines = zip(self.at_one, self.slopes, strict=True)
        return max(0.0, *(a + b * (examples - 1) for a, b in lines))


@dataclass(frozen=True)
class Footprint:
    """Bytes beside weights and data, as lines in the examples of a batch."""

    gradient: Lines  # the most of one gradient
    graph: Lines  # that a kept graph takes by itself
    kept: Lines  # the most of the first and second product from it, the graph among them
    rebuilt: Lines
    lean: Lines | None
    why_not_lean: str = ""

    def most(self, kind: Kind, batch: float, batches: float = 1) -> float:
        """The most that a product of a kind takes, of so many batches of so many examples."""
        if kind == "graph kept":
            return self.kept(batch) + (batches - 1) * self.graph(batch)
        if kind == "graph rebuilt" or self.lean is None:
            return self.rebuilt(batch)
        compared = self.rebuilt(2) if batch >= 2 * SHARE else self.rebuilt(1)
        return max(self.lean(batch), compared)


def footprint(problem: Problem) -> Footprint:
    """That of a problem, from an eighth and a quarter of its largest batch; about 8 gradients.

    From all of a batch where examples cannot be told apart, or a few have no loss.

    Raises:
        RuntimeError: if the loss cannot be differentiated twice.
    """
    batch, size = largest_batch(problem)
    sizes = {max(1, size // PARTS[0]), min(size, max(2, size // PARTS[1]))}
    try:
        if not batch.whole:
            return _counted({x: problem.with_batches([_few(batch, x)]) for x in sorted(sizes)})
    except (ValueError, NonFiniteLossError):  # cannot be told apart, or more are needed
        pass
    return _counted({size: problem.with_batches([batch.content])})


def largest_batch(problem: Problem) -> tuple[Batch, int]:
    """The batch with the most examples, and how many; 1 where they cannot be told apart."""
    batch = max(problem.batches, key=_size)
    return batch, _size(batch)


def _counted(problems: dict[int, Problem]) -> Footprint:
    lean, why, graphs, kept = None, "", {}, {}
    for p in problems.values():
        p.gradient()  # what is made once is no part of what is done again
    gradient = {x: bytes_in_course(p.gradient) for x, p in problems.items()}
    rebuilt = {x: bytes_in_course(_product(_whole(p, 0), p)) for x, p in problems.items()}
    for x, p in problems.items():
        engine = _whole(p, WIDE)
        kept[x] = bytes_in_course(partial(_twice, _product(engine, p)))
        graphs[x] = [engine.graphs.graph_bytes]
    if len(blocks_of(next(iter(problems.values())).model)) > 1:
        try:
            lean = Lines.through({x: _of_lean(p) for x, p in problems.items()})
        except LeanError as error:
            why = str(error)
    whole = [Lines.through(counts) for counts in (gradient, graphs, kept, rebuilt)]
    return Footprint(whole[0], whole[1], whole[2], whole[3], lean, why)


def _of_lean(problem: Problem) -> list[int]:
    """Without the first product, which is compared with a whole graph's."""
    product = _product(Lean(problem), problem)
    product()
    return bytes_in_course(product)


def _twice(work: Callable[[], object]) -> None:
    work()
    work()


def _whole(problem: Problem, memory: int) -> ReverseOverReverse:
    return ReverseOverReverse(problem, memory)


def _product(engine: Lean | ReverseOverReverse, problem: Problem) -> Callable[[], Tensor]:
    key = probes.key(0, "footprint")
    v = probes.gaussian(problem.n, key, dtype=problem.dtype, device=problem.device)[:, None]
    return lambda: engine.products(v)


def _size(batch: Batch) -> int:
    try:
        return num_examples(batch.content)
    except ValueError:
        return 1


def _few(batch: Batch, number: int) -> object:
    return take(batch.content, slice(0, number))

"""Which examples the differences are taken on: a few, from everywhere in the data."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hesscope import probes
from hesscope.problem.contents import copied, map_tensors, tensors_in, wanted_as
from hesscope.problem.data import Batch
from hesscope.problem.examples import num_examples, take
from hesscope.problem.problem import Problem

EXAMPLES = 16  # few, so that a small step crosses no kink of a ReLU
LEAST = 4  # drawn also where a batch holds fewer
KINDS = 3  # of examples that cannot be joined in one batch, at most


def few_examples(problem: Problem) -> list[Any]:
    """A few examples of all batches, joined where their shapes allow it; the same at every call.

    A quarter are those with the largest entries, where functions leave their usual range, the rest
    is drawn without replacement. They are joined to no larger batches than the first is, and so
    need no more memory than it does. Where examples cannot be told apart these are the first batch
    and the last. Reads all batches once.

    Raises:
        OutOfMemoryError: if memory runs out, which says nothing about the examples.
    """
    if problem.batches.whole:  # every batch is one item, never cut
        return whole_batches(problem)
    first = problem.batches.first.content
    try:
        size = num_examples(first)
        if len(problem.batches) == 1 and size <= EXAMPLES:
            return [first]
        drawn = _joined(_drawn(problem.batches, max(LEAST, min(EXAMPLES, size))), size)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, IndexError, RuntimeError):  # they cannot be told apart, or be cut out
        drawn = []
    counted = [content for content in drawn if problem.batches.count_of(content) > 0]
    return counted or whole_batches(problem)


def whole_batches(problem: Problem) -> list[Any]:
    """The first batch and the last."""
    batches = iter(problem.batches)
    ends = [next(batches).content]
    for batch in batches:
        ends[1:] = [batch.content]
    return ends


@dataclass(frozen=True, order=True)
class _Drawn:
    """An example, where it lies, and its rank in the draw: the highest stay."""

    rank: float
    batch: int
    place: int
    content: Any = field(compare=False)


def _drawn(batches: Iterable[Batch], num: int) -> list[Any]:
    """The examples with the largest entries, and others at random, in the order of the data."""
    generator = torch.Generator().manual_seed(probes.key(0, "examples of a check"))
    extreme: list[_Drawn] = []
    random: list[_Drawn] = []
    for batch in batches:
        size = num_examples(batch.content)
        random = _highest(
            random, torch.rand(size, generator=generator, dtype=torch.float32), batch, num
        )
        extreme = _highest(extreme, _largest_entries(batch.content, size), batch, num // 4)
    kept = {(one.batch, one.place): one for one in extreme}
    for one in random:
        if len(kept) < num:
            kept.setdefault((one.batch, one.place), one)
    return [kept[where].content for where in sorted(kept)]


def _highest(known: list[_Drawn], ranks: Tensor, batch: Batch, num: int) -> list[_Drawn]:
    """The highest of those known and of a batch, in memory of their own."""
    values, places = ranks.topk(min(num, len(ranks)))
    least = known[-1].rank if len(known) == num else -1.0
    new = [
        _Drawn(rank, batch.index, i, map_tensors(take(batch.content, slice(i, i + 1)), copied))
        for rank, i in zip(values.tolist(), places.tolist(), strict=True)
        if rank > least
    ]
    return heapq.nlargest(num, [*known, *new])


def _largest_entries(content: Any, size: int) -> Tensor:
    """The largest absolute entry of each example among its floating tensors."""
    largest = torch.zeros(size, dtype=torch.float32)
    for tensor in tensors_in(content):
        if tensor.is_floating_point() and tensor.numel():
            entries = tensor.detach().reshape(size, -1).abs().amax(1)
            largest = torch.maximum(largest, entries.to(largest))
    return largest


def _joined(examples: list[Any], size: int) -> list[Any]:
    """Batches of up to `size` examples that have the same shapes; of the most frequent kinds.

    As even as can be: no batch of one is made where larger ones will do, which is a case of its own
    in kernels (torch's gradient of grouped convolutions of strided inputs is wrong for it).
    """
    kinds: dict[str, list[Any]] = {}
    for example in examples:
        kinds.setdefault(_kind(example), []).append(example)
    frequent = sorted(kinds.values(), key=len, reverse=True)[:KINDS]
    return [_join(group) for kind in frequent for group in _even(kind, -(-len(kind) // size))]


def _even(examples: list[Any], num: int) -> Iterator[list[Any]]:
    """Cut into `num` groups whose sizes differ by one at most."""
    ends = [len(examples) * i // num for i in range(num + 1)]
    return (examples[a:b] for a, b in itertools.pairwise(ends))


def _kind(example: Any) -> str:
    """What two examples must share to be joined: shapes, dtypes, and whatever is no tensor."""
    shapes = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors_in(example)]
    return f"{shapes} {map_tensors(example, lambda _: torch.empty(0, dtype=torch.float32))!r}"


def _join(group: list[Any]) -> Any:
    rows: Iterator[Tensor] = map(torch.cat, zip(*map(tensors_in, group), strict=True))
    return map_tensors(group[0], lambda tensor: wanted_as(tensor, next(rows).detach()))

"""The data in exchangeable parts, whose spread shows the noise of their mean."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.autodiff.graph import gradient_graph, refuse_broken
from hesscope.probes import key
from hesscope.problem.contents import fingerprint
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.examples import num_examples, take
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem
from hesscope.system import collectives

PARTS = 32  # the data is looked at in at least this many parts, where it can be


def parts_of(problem: Problem, e: Evaluation) -> Iterator[Batch]:
    """The batches of this process, each cut at random where there are fewer than PARTS.

    A batch is cut into pieces whose sizes differ by one at most. Its examples are shuffled under
    its own fixed seed first, because data often lies in an order that has a meaning: slices of
    sorted data differ by more than the luck of the draw. Batches stay whole where their examples
    cannot be told apart, and where the loss of the first one is not the mean of those of its parts:
    it couples its examples, or they do not lie on the first axis; those that are one item each stay
    whole, too. One part at a time is in memory.

    >>> import torch, hesscope as hs
    >>> x = torch.arange(70.0)[:, None]
    >>> problem = hs.Problem(torch.nn.Linear(1, 1), torch.nn.MSELoss(), (x, x))
    >>> with problem.evaluation() as e:
    ...     parts = list(parts_of(problem, e))
    >>> len(parts), sorted({part.count for part in parts})
    (32, [2.0, 3.0])
    """
    pieces = -(-PARTS // len(problem.batches))
    cuts = pieces > 1 and unit_in(problem, e) == "examples"
    for batch in problem.batches:
        yield from _cut(problem, batch, pieces) if cuts else [batch]


Unit = Literal["examples", "items", "batches"]


def unit_of(problem: Problem) -> Unit:
    """What the data is made of, as one draw is independent of the next; three forward passes.

    Examples; items, as `count` counts them, where examples cannot be told apart; batches, where
    each is one item (count=1), or the loss of the first is not the mean of those of its parts: it
    couples its examples, or they do not lie on the first axis.

    >>> import torch, hesscope as hs
    >>> data = [(torch.ones(4, 1), torch.zeros(4, 1))]
    >>> unit_of(hs.Problem(torch.nn.Linear(1, 1), torch.nn.MSELoss(), data, count=1))
    'batches'
    """
    with problem.evaluation() as e:
        return unit_in(problem, e)


def unit_in(problem: Problem, e: Evaluation) -> Unit:
    """The same, in an evaluation that is under way."""
    batch = problem.batches.first
    if batch.whole:
        return "batches"
    try:
        size = num_examples(batch.content)
    except ValueError:  # they cannot be told apart
        return "items"
    return "examples" if size == 1 or _adds_up(problem, e, batch) else "batches"


def num_units(problem: Problem, unit: Unit | None = None) -> float:
    """How many of these the data holds, in all processes together."""
    unit = unit or unit_of(problem)
    sizes = {
        "examples": examples_in,
        "items": lambda batch: batch.count,
        "batches": lambda _: 1.0,
    }
    return collectives.sum_of_number(sum(map(sizes[unit], problem.batches)))


def _adds_up(problem: Problem, e: Evaluation, batch: Batch) -> bool:
    """Whether the loss of a batch is the mean of those of two parts; three forward passes."""
    halves = list(_cut(problem, batch, 2))
    counts = [half.count for half in halves]
    if len(halves) < 2 or abs(sum(counts) - batch.count) > 1e-5 * batch.count:
        return False
    try:
        whole, *parts = (e.loss(one).detach() for one in (batch, *halves))
    except ValueError:  # the model refuses a part of its batch
        return False
    expected = sum(c * float(part) for c, part in zip(counts, parts, strict=True)) / sum(counts)
    weaker = max(whole.dtype, problem.dtype, key=rounding.eps)
    largest = max(abs(float(whole)), 100 * rounding.half_the_digits(weaker))
    return abs(float(whole) - expected) <= rounding.half_the_digits(weaker) * largest


def examples_in(batch: Batch) -> float:
    """The number of examples of a batch, or of items where it has none to be told apart."""
    if batch.whole:
        return batch.count
    try:
        return float(num_examples(batch.content))
    except ValueError:
        return batch.count


def examples_of(problem: Problem) -> float:
    """The number of examples in all processes together, as batches are drawn from them."""
    return collectives.sum_of_number(sum(examples_in(batch) for batch in problem.batches))


def random_sign(part: Batch, seed: int) -> int:
    """+1 or -1, drawn from the content of a part: the same in whatever process it lies."""
    return random.Random(key(seed, "sign of a part", fingerprint(part.content))).choice((-1, 1))


def products_of(e: Evaluation, part: Batch, V: Tensor) -> Tensor:
    """H_b V, (n, k), from one graph of the part's gradient, dropped afterwards.

    Raises:
        RuntimeError: if the model has no trustworthy second derivative.
    """
    loss, pieces = gradient_graph(e, part)
    gradient = flatten(pieces)
    refuse_broken((gradient,), loss)
    if not gradient.requires_grad:
        return torch.zeros_like(V)
    columns = [
        torch.autograd.grad(
            gradient, e.leaves, v, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for v in V.unbind(1)
    ]
    return torch.stack([flatten(column) for column in columns], 1)


def _cut(problem: Problem, batch: Batch, pieces: int) -> Iterator[Batch]:
    if batch.whole:
        yield batch
        return
    try:
        size = num_examples(batch.content)
    except ValueError:  # the examples of this batch cannot be told apart: it stays whole
        yield batch
        return
    generator = torch.Generator().manual_seed(key(0, "cut of a batch", batch.index))
    shuffled = torch.randperm(size, generator=generator).to(problem.device)
    for places in shuffled.tensor_split(min(pieces, size)):
        content: Any = take(batch.content, places)
        count = float(problem.batches.count_of(content))
        if count > 0:
            yield Batch(batch.index, content, count)

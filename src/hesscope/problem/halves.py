"""The same problem in smaller batches, for a machine whose memory does not hold one of them."""

from __future__ import annotations

from typing import Any

from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.examples import num_examples, take
from hesscope.problem.problem import Problem
from hesscope.rounding import half_the_digits


def in_halves(problem: Problem) -> Problem:
    """The problem with every batch cut in two, if its mean loss then is the same to rounding.

    That is tried out, without graphs: c ℓ = c₁ ℓ₁ + c₂ ℓ₂ for each batch.

    Raises:
        RuntimeError: if a batch cannot be cut, saying why.
    """
    contents: list[Any] = []
    why = "" if problem.batches.cached else "the data is read anew at every pass"
    with problem.evaluation() as e:
        for batch in () if why else problem.batches:
            try:
                halves = _halves(problem, batch)
            except ValueError as error:
                why = str(error)
                break
            if len(halves) > 1 and not _adds_up(e, batch, halves):
                why = f"the loss of batch {batch.index} is no mean over its examples"
                break
            contents += [half.content for half in halves]
    if not why and len(contents) == len(problem.batches):
        why = "each is one example"
    if why:
        msg = (
            f"memory ran out, and the batches cannot be made smaller: {why}. Give smaller batches "
            "(batch_size), fewer data (problem.subsample), or a machine with more memory."
        )
        raise RuntimeError(msg)
    return problem.with_batches(contents)


def _halves(problem: Problem, batch: Batch) -> list[Batch]:
    """The first and the second half of the examples of a batch, or its only example.

    Raises:
        ValueError: if they cannot be told apart, or the batch is one item.
    """
    size = num_examples(batch.content)
    if batch.whole:
        msg = f"batch {batch.index} is one item"
        raise ValueError(msg)
    if size < 2:
        return [batch]
    parts = (take(batch.content, part) for part in (slice(0, size // 2), slice(size // 2, size)))
    count = problem.batches.count_of
    return [Batch(batch.index, content, float(count(content))) for content in parts]


def _adds_up(e: Evaluation, batch: Batch, halves: list[Batch]) -> bool:
    with e.values() as value:
        whole, first, second = (
            part.count * float(value(part)) if part.count else 0.0 for part in (batch, *halves)
        )
    return abs(whole - first - second) <= half_the_digits(e.point.dtype) * abs(whole)

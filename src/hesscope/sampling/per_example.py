"""What each example adds to a quantity of the whole, from outputs of batches or one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.examples import num_examples, take
from hesscope.problem.problem import Problem
from hesscope.system import collectives, progress

OfBatch = Callable[[Evaluation, Batch], Tensor]  # -> (rows of the outputs, k), weighted, float64
OfExample = Callable[[Evaluation, Batch], Tensor]  # -> (k,) of a batch of one, not weighted


def per_example(
    problem: Problem, truth: Tensor, of_batch: OfBatch, of_example: OfExample, label: str
) -> tuple[Tensor, bool]:
    """What all examples of this process add, (N, k), and whether each had to be a batch of its own.

    From the outputs of whole batches, where they are known and columns add up to the truth (k,).

    Raises:
        ValueError: if single examples are needed and cannot be told apart, or do not add up.
    """
    parts = _at_once(problem, of_batch, label)
    if parts is not None and _adds_up(parts, truth, problem.dtype):
        return parts, False
    parts = torch.cat(list(_one_by_one(problem, len(truth), of_example)))
    if not _adds_up(parts, truth, problem.dtype):
        raise ValueError(_DO_NOT_ADD_UP)
    return parts, True


_DO_NOT_ADD_UP = (
    "what single examples contribute does not add up to the whole: the loss of a batch is "
    "no mean over what `count` counts (pass `count` to Problem for class weights and ignored "
    "labels), or batches couple their examples (BatchNorm, dropout in training mode)."
)


def _at_once(problem: Problem, of_batch: OfBatch, label: str) -> Tensor | None:
    """None where that cannot be had, if only in another process."""
    parts: list[Tensor] = []
    failed = problem.loss_fn is None
    try:
        with problem.evaluation() as e:
            for batch in () if failed else e.batches:
                parts.append(of_batch(e, batch))
                progress.report(f"{label}: batches", len(parts), len(problem.batches))
    except (RuntimeError, ValueError):  # no outputs, no third derivative, or no memory for it
        failed = True
    return None if collectives.sum_of_number(float(failed)) else torch.cat(parts)


def _one_by_one(problem: Problem, k: int, of_example: OfExample) -> Iterator[Tensor]:
    with problem.evaluation() as e:
        for batch in e.batches:
            for content in _examples(batch):
                count = float(problem.batches.count_of(content))
                part = torch.zeros(k, dtype=torch.float64)
                if count > 0:
                    part = of_example(e, Batch(batch.index, content, count)).cpu()
                yield (count / e.num_items * part)[None]


def _examples(batch: Batch) -> Iterator[Any]:
    """The examples of a batch one by one; all of it where it is one item."""
    if batch.whole:
        yield batch.content
        return
    for i in range(num_examples(batch.content)):
        yield take(batch.content, slice(i, i + 1))


def _adds_up(parts: Tensor, truth: Tensor, dtype: torch.dtype) -> bool:
    """Whether the columns sum to the truth, to half the digits of their absolute sums."""
    total = collectives.sum_over_processes(torch.stack([parts.sum(0), parts.abs().sum(0)]))
    tolerance = rounding.half_the_digits(dtype)
    return bool(((total[0] - truth).abs() <= tolerance * total[1]).all())

"""The error of products in single precision, from the same in float64 on a few examples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hesscope.operator import SymmetricOperator, norm
from hesscope.problem.examples import num_examples
from hesscope.problem.problem import Problem

EXAMPLES = 128  # drawn from all batches; all of them where there are no more


def error_of_product(
    problem: Problem,
    make: Callable[[Problem], SymmetricOperator],
    v: Tensor,
    scale: Tensor | None = None,
) -> float:
    """‖(A - A₆₄) v‖ on at most 128 examples, with A₆₄ the operator of the problem in float64.

    With a scale, the diagonal of D, ‖D (A - A₆₄) D v‖. The parameters are the same bit for bit, so
    this is what the arithmetic of the products does.
    Zero for a problem in float64, and where none can be made of it: then nothing is known.
    """
    if problem.dtype == torch.float64 or problem.point.half is not None:
        return 0.0
    v = v if scale is None else scale * v
    try:
        few = _few(problem)
        exact = make(few.in_double([batch.content for batch in few.batches]))
        difference = (make(few) @ v).double() - exact @ v.double()
    except (ValueError, RuntimeError):  # the model, its loss or the device has no float64
        return 0.0
    error = norm(exact, difference if scale is None else scale.double() * difference)
    return error if error < float("inf") else 0.0


def _few(problem: Problem) -> Problem:
    try:
        total = sum(num_examples(batch.content) for batch in problem.batches)
        return problem if total <= EXAMPLES else problem.subsample(EXAMPLES)
    except ValueError:  # the examples of a batch cannot be told apart
        return problem.with_batches([next(iter(problem.batches)).content])

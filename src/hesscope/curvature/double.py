"""The error of products in fewer digits than float64, from the same in it on a few examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.operator import SymmetricOperator, largest_norm
from hesscope.problem.examples import num_examples
from hesscope.problem.precision import Lifted
from hesscope.problem.problem import Problem

AT_ONCE = 1 << 24  # numbers of vectors that are compared together
EXAMPLES = 128  # drawn from all batches; all of them where there are no more


def error_of_product(
    problem: Problem,
    make: Callable[[Problem], SymmetricOperator],
    v: Tensor,
    around: Callable[[Tensor], Tensor] | None = None,
    own: SymmetricOperator | None = None,
) -> float:
    """‖(A - A₆₄) v‖ on at most 128 examples, with A₆₄ the operator of the problem in float64.

    The largest over the columns of v of shape (n, k). `own` is the operator of the whole problem,
    whose graphs serve where there are no more examples.

    The parameters are the same bit for bit, so this is what the arithmetic of the products does;
    casts inside the model are to float64, too, unless that changes the loss by more than rounding.
    With a symmetric matrix D that stands around A, a function of a vector, ‖D (A - A₆₄) D v‖.
    Zero for a problem in float64, and where none can be made of it: then nothing is known.
    """
    if problem.weakest == torch.float64 or problem.point.half is not None:
        return 0.0
    V = v.reshape(len(v), -1)
    V = V if around is None else _each(around, V)
    try:
        few = _few(problem)
        double = few.in_double([batch.content for batch in few.batches])
        lifted = _lifted(double)
        with lifted():
            exact = make(double)
        A = own if own is not None and few is problem else make(few)
        errors = []
        for some in V.split(at_once(len(V)), 1):
            with lifted():
                product = exact @ some.double()
            difference = (A @ some).double() - product
            seen = difference if around is None else _each(around, difference)
            errors.append(largest_norm(exact, seen))
    except (ValueError, RuntimeError):  # the model, its loss or the device has no float64
        return 0.0
    error = max(errors)
    return error if error < float("inf") else 0.0


def at_once(n: int) -> int:
    """How many vectors of n numbers are compared together, by one graph: one, if they are long.

    >>> at_once(10**6), at_once(10**9)
    (16, 1)
    """
    return max(1, AT_ONCE // n)


def _each(around: Callable[[Tensor], Tensor], V: Tensor) -> Tensor:
    return torch.stack([around(v) for v in V.unbind(1)], 1)


def _lifted(problem: Problem) -> Callable[[], AbstractContextManager[Any]]:
    """Where casts are to float64; of a problem whose meaning they are, they stay."""
    if problem.weakest == torch.float64:
        return nullcontext
    plain, allowed = problem.loss(), rounding.loss_tolerance(problem.weakest)
    with Lifted():
        lifted = problem.loss()
    return Lifted if math.isclose(plain, lifted, rel_tol=allowed) else nullcontext


def _few(problem: Problem) -> Problem:
    try:
        total = sum(num_examples(batch.content) for batch in problem.batches)
        return problem if total <= EXAMPLES else problem.subsample(EXAMPLES)
    except ValueError:  # the examples of a batch cannot be told apart
        return problem.with_batches([problem.batches.first.content])

"""One look under way: quantities are measured when they are first asked for, each once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from hesscope.curvature.hessian import Hessian
from hesscope.examination.question import Question
from hesscope.operator import SymmetricOperator, norm
from hesscope.operator.kept import KeptProducts
from hesscope.problem.problem import Problem
from hesscope.system.agreement import in_step

SPREAD = 120  # of exponents: 2 to this, and to minus this, is a number in all dtypes
INTERRUPTED = "interrupted before it was measured"


class MissingError(RuntimeError):
    """A quantity that others need is not known; the message says why."""

    def __init__(self, origin: Exception) -> None:
        super().__init__(_cause(origin))
        self.origin = origin  # what went wrong first


class Look:
    """A problem, what is asked of it, what has been measured so far, and what that has cost.

    A quantity asks for those that it rests on by `of`, so their order is nobody's concern. One that
    cannot be measured is missing for all that need it, with its cause, and stops no other.
    """

    def __init__(self, problem: Problem, question: Question) -> None:
        self.problem, self.question = problem, question
        self.H: SymmetricOperator = Hessian(problem)
        if question.scratch is not None:
            self.H = KeptProducts(self.H, question.scratch)
        self.num_matvecs, self.gradients = 0, 0.0
        self.products: list[tuple[Tensor, Tensor]] = []  # v and Hv, (n,) each, that were needed
        self._known: dict[Callable[[Any], Any], Any] = {}
        self._failed: dict[Callable[[Any], Any], Exception] = {}

    def of(self, measure: Callable[[Any], Any]) -> Any:
        """What `measure` finds on this look; measured at most once.

        Raises:
            MissingError: if it cannot be measured.
        """
        if measure in self._failed:
            raise MissingError(self._failed[measure])
        if measure not in self._known:
            try:
                with in_step():
                    found = measure(self)
                self._known[measure] = found
            except (ValueError, RuntimeError, MemoryError) as error:
                origin = error.origin if isinstance(error, MissingError) else error
                self._failed[measure] = origin
                raise MissingError(origin) from error
        return self._known[measure]

    def close(self, measures: Iterable[Callable[[Look], Any]]) -> None:
        """From now on, those of these that have not been measured are missing: interrupted."""
        for measure in measures:
            if measure not in self._known:
                self._failed.setdefault(measure, RuntimeError(INTERRUPTED))

    def maybe(self, measure: Callable[[Look], Any]) -> Any:
        """The same, or None where it cannot be measured."""
        try:
            return self.of(measure)
        except MissingError:
            return None

    def spend(self, num_matvecs: int = 0, gradients: float = 0.0) -> None:
        """Notes a cost: products, and what else was spent in gradients of the mean loss."""
        self.num_matvecs += num_matvecs
        self.gradients += gradients

    def along(self, v: Tensor) -> tuple[float, Tensor]:
        """v·Hv and Hv, from one product.

        Made with v over a power of two, which changes no digit: of the gradient of a tiny loss, a
        product is too small for any float.
        """
        self.spend(1)
        factor = 2.0 ** min(max(math.frexp(norm(self.H, v))[1], -SPREAD), SPREAD)
        scaled = v / factor
        product = self.H.matmat(scaled[:, None])[:, 0]
        self.products.append((scaled, product))
        return self.dot(scaled, product) * factor * factor, product * factor

    def dot(self, v: Tensor, w: Tensor) -> float:
        """v·w in float64."""
        return float(self.H.inner(v[:, None], w[:, None]))


def _cause(error: BaseException) -> str:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return f"out of memory ({str(error).splitlines()[0] if str(error) else 'no details'})"
    return str(error)

"""What the questions of check_problem share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from hesscope import rounding
from hesscope.checks.precision import weakest_dtype
from hesscope.problem.data import Batch
from hesscope.problem.problem import Problem
from hesscope.results.check import Finding


@dataclass
class State:
    """What the tests share: the problem, its first batch, and what has been noted so far."""

    problem: Problem
    notes: list[Finding] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    num_matvecs: int = 0
    asked: bool = True  # whether the question at hand could be

    @property
    def usual_tolerance(self) -> float:
        """Relative difference of two losses that rounding in the parameters' dtype explains."""
        return _tolerance(self.problem.dtype)

    @cached_property
    def tolerance(self) -> float:
        """The same for the weakest dtype that the loss passes through; one slow forward pass."""
        return _tolerance(weakest_dtype(self.problem, self.first_batch()))

    def first_batch(self) -> Batch:
        """The first batch that counts."""
        return next(iter(self.problem.batches))

    def could_not_ask(self, name: str, cause: str, cure: str) -> None:
        """Notes why the question at hand could not be asked: it is not passed then."""
        self.asked = False
        self.note(name, cause, cure)

    def note(self, name: str, cause: str, cure: str) -> None:
        """Adds a finding that is no fault."""
        self.notes.append(Finding(name, cause, cure, fault=False))


def _tolerance(dtype: torch.dtype) -> float:
    """1e-9 in float64 and 1e-4 in float32, some thousand roundings; ten in half precision."""
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 10 * rounding.eps(dtype))

"""What the questions of check_problem share."""

from __future__ import annotations

from dataclasses import dataclass, field

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

    def first_batch(self) -> Batch:
        """The first batch that counts."""
        return next(iter(self.problem.batches))

    def note(self, name: str, cause: str, cure: str) -> None:
        """Adds a finding that is no fault."""
        self.notes.append(Finding(name, cause, cure, fault=False))

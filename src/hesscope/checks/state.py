"""What the questions of check_problem share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from hesscope import rounding
from hesscope.autodiff.blame import custom_functions
from hesscope.autodiff.graph import gradient_graph
from hesscope.checks.sample import Sample, small_problem, weakest_of_all
from hesscope.problem.data import Batch
from hesscope.problem.problem import Problem
from hesscope.results.check import Finding


@dataclass
class State:
    """What the tests share: the problem, what is known of it, and what has been noted so far."""

    problem: Problem
    notes: list[Finding] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    num_matvecs: int = 0
    asked: bool = True  # whether the question at hand could be
    gradient: Tensor | None = None  # over all data
    first: tuple[float, Tensor] | None = None  # loss and gradient of the first batch, as first seen
    unused: list[str] = field(default_factory=list)  # parameters that this loss does not reach
    products: dict[int, Tensor] = field(default_factory=dict)  # of the sample, by their direction

    @property
    def usual_tolerance(self) -> float:
        """Relative difference of two losses that rounding in the parameters' dtype explains."""
        return rounding.loss_tolerance(self.problem.dtype)

    @cached_property
    def weakest(self) -> torch.dtype:
        """The weakest dtype that the loss passes through; one slow forward pass."""
        return weakest_of_all(self.problem, self.first_batch())

    @property
    def tolerance(self) -> float:
        """The usual tolerance for the weakest dtype that the loss passes through."""
        return rounding.loss_tolerance(self.weakest)

    @cached_property
    def sample(self) -> Sample:
        """The problem on a few examples, in float64 if it can be."""
        return small_problem(self.problem)

    @cached_property
    def custom_functions(self) -> list[str]:
        """The custom autograd Functions that the loss of the first batch passes through."""
        with self.problem.evaluation() as e:
            loss, gradient = gradient_graph(e, self.first_batch())
            return custom_functions([loss, *gradient])

    def first_batch(self) -> Batch:
        """The first batch that counts."""
        return self.problem.batches.first

    def could_not_ask(self, name: str, cause: str, cure: str) -> None:
        """Notes why the question at hand could not be asked: it is not passed then."""
        self.asked = False
        self.note(name, cause, cure)

    def modules(self) -> list[tuple[str, nn.Module]]:
        """All modules that the loss runs, by name; those outside the model by their class."""
        inside = [(name or type(m).__name__, m) for name, m in self.problem.model.named_modules()]
        outside = [(f"{type(m).__name__} outside the model", m) for m in self.problem.others]
        return [*inside, *outside]

    def note(self, name: str, cause: str, cure: str) -> None:
        """Adds a finding that is no fault."""
        self.notes.append(Finding(name, cause, cure, fault=False))

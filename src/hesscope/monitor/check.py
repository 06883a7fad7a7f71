"""One check of a run under way: a look that knows the step which is about to be made."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope.examination.look import Look
from hesscope.examination.question import Question
from hesscope.monitor.sharpness import Tracker
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem


class NotFiniteError(Exception):
    """The loss is not finite, and so is nothing that comes from it: the run diverges just now."""


@dataclass
class Memory:
    """What is carried from check to check: the eigenvectors that are followed."""

    seed: int = 0
    delta: float = 1e-3
    trackers: dict[str, Tracker] = field(default_factory=dict)
    critical: float = 1.0  # multiple of the step at which the loss rose at the last check
    num_draws: int = 0  # of random batches, so far

    def tracker(self, name: str) -> Tracker:
        """The one that follows the top of a matrix of this name."""
        return self.trackers.setdefault(name, Tracker(delta=self.delta, seed=self.seed))


class Check(Look):
    """A look at a problem just before its optimiser makes a step."""

    def __init__(
        self,
        problem: Problem,
        question: Question,
        memory: Memory,
        held_out: Problem | None = None,
    ) -> None:
        super().__init__(problem, question)
        self.memory, self.held_out = memory, held_out

    @property
    def optimizer(self) -> Optimizer:
        """The one that trains.

        Raises:
            ValueError: if none was given.
        """
        if self.question.optimizer is None:
            msg = "no optimizer was given to the Monitor, so its step is not known"
            raise ValueError(msg)
        return self.question.optimizer

    @property
    def training_gradient(self) -> Tensor:
        """(n,) the gradient that the optimiser is about to step with, clipped and unscaled.

        Raises:
            ValueError: if there is none.
        """
        own = dict(self.problem.model.named_parameters())
        gradients = [own[name].grad for name in self.problem.layout.names]
        if all(g is None for g in gradients):
            msg = "the parameters hold no gradient"
            raise ValueError(msg)
        dense = [
            torch.zeros_like(own[name]) if g is None else g.detach().to_dense()
            for name, g in zip(self.problem.layout.names, gradients, strict=True)
        ]
        return flatten(dense).to(self.problem.dtype)

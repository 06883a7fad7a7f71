"""Does a loss fail because of what hesscope imposes: the mode of the model, autocast off?"""

from __future__ import annotations

import copy

import torch

from hesscope.checks.state import State
from hesscope.problem.data import Batch
from hesscope.problem.problem import Problem


def what_it_would_need(state: State) -> str | None:
    """What would let a failing loss run, tried out on the first batch; None if neither does.

    Costs up to three forward passes.
    """
    problem, batch = state.problem, state.first_batch()
    if _runs(problem, batch):  # what fails is its gradient
        return None
    other = copy.copy(problem)
    other.training = not problem.training
    if _runs(other, batch):
        if problem.training:
            return "it runs in evaluation mode: leave out training=True"
        return (
            "hesscope puts the model into evaluation mode, and it runs in training mode only: "
            "Problem(..., training=True) measures it there, with random masks frozen by a seed"
        )
    if _runs(problem, batch, autocast=True):
        return (
            "hesscope switches autocast off, and it runs under autocast only: give all its parts "
            "one dtype, for example model.float()"
        )
    return None


def _runs(problem: Problem, batch: Batch, *, autocast: bool = False) -> bool:
    try:
        with problem.evaluation() as e, torch.autocast(problem.device.type, enabled=autocast):
            return bool(e.loss(batch).isfinite())
    except Exception as error:  # whatever the user's code raises is no answer but no
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            raise
        return False

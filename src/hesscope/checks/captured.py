"""Does the whole loss move with theta, or does it hold parameters that only the model moves?"""

from __future__ import annotations

from torch import Tensor

from hesscope import rounding
from hesscope.checks.state import State
from hesscope.problem.data import Batch
from hesscope.problem.problem import Problem
from hesscope.results.check import Finding


def loss_moves_with_the_parameters(state: State) -> Finding | None:
    """∇L at theta is the same in the model's own tensors and in tensors that stand in for them.

    A penalty on `list(model.parameters())` made once holds the model's own tensors: their gradient
    is seen, but away from theta the penalty stays behind. Two gradients of the first batch.
    """
    problem, batch = state.problem, state.first_batch()
    own = _gradient(problem, batch)
    moved = _gradient(problem.at(problem.theta), batch)
    allowed = rounding.recomputed(problem.dtype) * float(own.norm())
    apart = [
        name
        for name, place in problem.layout.slices().items()
        if not float((own[place] - moved[place]).norm()) <= allowed
    ]
    if not apart:
        return None
    share = float((own - moved).norm()) / float(own.norm())
    names = ", ".join(apart[:3]) + (" and others" if len(apart) > 3 else "")
    return Finding(
        "captured_parameters",
        f"{share:.0%} of the gradient (in {names}) comes from parameters that the loss holds "
        "itself, such as a penalty on a list of model.parameters() made beforehand: away from "
        "these parameters that part of the loss does not move.",
        "read the parameters where the loss is computed: Problem.from_closure(model, lambda model, "
        "batch: loss(model, batch) + penalty(model.parameters()), data).",
    )


def _gradient(problem: Problem, batch: Batch) -> Tensor:
    with problem.evaluation() as e:
        return e.gradient(batch)

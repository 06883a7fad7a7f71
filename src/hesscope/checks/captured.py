"""Does the whole loss move with theta, or does it hold parameters that only the model moves?"""

from __future__ import annotations

from hesscope.autodiff.graph import variables_behind
from hesscope.checks.state import State
from hesscope.results.check import Finding


def loss_moves_with_the_parameters(state: State) -> Finding | None:
    """With other tensors in the place of theta, the loss reaches none of the model's own.

    A penalty on `list(model.parameters())` made once holds the model's own tensors: their gradient
    is seen, but away from theta the penalty stays behind. Read off the graph of the first batch's
    loss, so exact; one forward pass.
    """
    problem = state.problem
    own = dict(problem.model.named_parameters())
    with problem.at(problem.theta).evaluation() as e:
        for name in problem.layout.names:
            own[name].requires_grad_(True)
        reached = variables_behind(e.loss(state.first_batch()))
    held = [name for name in problem.layout.names if id(own[name]) in reached]
    if not held:
        return None
    names = ", ".join(held[:3]) + (" and others" if len(held) > 3 else "")
    return Finding(
        "captured_parameters",
        f"the loss holds {names} itself, as a penalty on a list of model.parameters() made "
        "beforehand does: away from these parameters that part of the loss does not move.",
        "read the parameters where the loss is computed: Problem.from_closure(model, lambda model, "
        "batch: loss(model, batch) + penalty(model.parameters()), data).",
    )

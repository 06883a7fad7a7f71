"""Does the whole loss move with theta, or does it hold parameters that only the model moves?"""

from __future__ import annotations

from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from hesscope import rounding
from hesscope.autodiff.graph import variables_behind
from hesscope.checks.differences import direction
from hesscope.checks.state import State
from hesscope.results.check import Finding


def loss_moves_with_the_parameters(state: State) -> Finding | None:
    """The whole loss follows theta, and no part of it the model's own tensors.

    A penalty on `list(model.parameters())` made once holds the model's own tensors: their gradient
    is seen, but away from theta the penalty stays behind. So do a detached view and a buffer in the
    memory of a parameter, which move in training. The first is read off the graph of the first
    batch's loss, the others are seen where the model's own parameters are moved, and moved back:
    three forward passes. Modules beside the model that could be trained, too, are a note.
    """
    _note_what_is_left_out(state)
    held = _held_by_the_loss(state)
    if held:
        names = ", ".join(held[:3]) + (" and others" if len(held) > 3 else "")
        cause = (
            f"the loss holds {names} itself, as a penalty on a list of model.parameters() made "
            "beforehand does: away from these parameters that part of the loss does not move."
        )
    elif _moves_otherwise(state):
        cause = (
            "the loss holds tensors in the memory of parameters, such as a view, `weight.data` or "
            "`weight.detach()` kept in a buffer, an attribute or outside the model: they change "
            "when the parameters are changed in place, as optimisers do, and have no derivative."
        )
    else:
        return None
    return Finding(
        "captured_parameters",
        cause,
        "read the parameters where the loss is computed: Problem.from_closure(model, lambda model, "
        "batch: loss(model, batch) + penalty(model.parameters()), data).",
    )


def _note_what_is_left_out(state: State) -> None:
    """Says that trainable parameters of the loss or of other networks are not part of theta."""
    theta = {id(p) for p in state.problem.model.parameters()}
    left_out = {
        id(p): (f"{type(module).__name__}.{name}", p.numel())
        for module in state.problem.others
        for name, p in module.named_parameters(recurse=False)
        if p.requires_grad and id(p) not in theta
    }
    if not left_out:
        return
    names = [name for name, _ in left_out.values()]
    several = ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
    total = sum(size for _, size in left_out.values())
    state.note(
        "parameters_outside",
        f"the loss uses trainable parameters that theta leaves out: {several} ({total:,} numbers). "
        "They are held fixed, and the Hessian is that over the model's own parameters.",
        "if they are trained together, make one module of both, `both = nn.ModuleList([model, "
        "loss])`, and use Problem.from_closure(both, lambda both, batch: both[1](both[0](batch[0]),"
        " batch[1]), data).",
    )


def _held_by_the_loss(state: State) -> list[str]:
    """The names of parameters that the loss reaches though others stand in their place."""
    problem = state.problem
    own = dict(problem.model.named_parameters())
    with problem.at(problem.theta).evaluation() as e:
        for name in problem.layout.names:
            own[name].requires_grad_(True)
        reached = variables_behind(e.loss(state.first_batch()))
    return [name for name in problem.layout.names if id(own[name]) in reached]


def _moves_otherwise(state: State) -> bool:
    """Whether parameters changed in place give another loss than others in their stead."""
    problem, batch = state.problem, state.first_batch()
    if problem.point.substitutes or problem.point.half is not None:
        return False
    there = problem.theta + 0.1 * direction(problem, seed=12)
    with problem.at(there).evaluation() as e:
        instead = float(e.loss(batch).detach())
    own = tuple(problem.point.leaves())
    with _unsafe_preserve_version_counter(own), problem.evaluation() as e:
        problem.point.write(there)  # the evaluation puts back what was there
        in_place = float(e.loss(batch).detach())
    largest = max(abs(instead), abs(in_place), 1e-30)
    return abs(instead - in_place) > rounding.same_computation(state.weakest) * largest

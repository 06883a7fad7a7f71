"""The parameters of a problem as an optimiser holds them, each with its options and its state."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

from hesscope.problem.problem import Problem
from hesscope.steps.gains import Group, State


@dataclass(frozen=True)
class Held:
    """A parameter of the model, with its group in the optimiser and its state there."""

    name: str
    parameter: Tensor
    group: Group
    state: State


def held(problem: Problem, optimizer: Optimizer) -> list[Held]:
    """The problem's parameters in the order of its layout.

    Raises:
        ValueError: naming the first ones that are not the optimiser's.
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    own = dict(problem.model.named_parameters())
    names = problem.layout.names
    missing = [name for name in names if id(own[name]) not in groups]
    if missing:
        msg = (
            f"the optimiser does not hold {', '.join(missing[:3])} ({len(missing)} of "
            f"{len(names)} parameters); give the one that trains them, or look at "
            "the others alone with problem.block(names)."
        )
        raise ValueError(msg)
    return [
        Held(name, own[name], groups[id(own[name])], optimizer.state.get(own[name], {}))
        for name in names
    ]

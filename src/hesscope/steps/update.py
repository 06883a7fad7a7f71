"""The step that a torch optimiser would make now."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hesscope import rounding
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem
from hesscope.steps.held import held
from hesscope.steps.kinds import kind_of, unwrapped


@dataclass(frozen=True)
class Update:
    """The step d that an optimiser would make: θ + d are the parameters after it."""

    step: Tensor  # (n,)
    optimizer: str
    rounding: float  # about ‖·‖ of what is lost when θ + d is rounded to the dtype of θ


def update(problem: Problem, optimizer: Optimizer, gradient: Tensor) -> Update:
    """The step d = θ' - θ that `optimizer.step()` would make with this gradient, (n,).

    A copy of the optimiser with its options and state makes the step for real on copies of the
    parameters: momentum, preconditioner, weight decay and rounding are the optimiser's own. Model
    and optimiser are not touched. Parameters that the optimiser holds beyond those of the problem
    are left out, so an optimiser whose step couples all parameters (by a global norm) is not
    followed there; hooks on the optimiser do not run. A parameter with zero gradient is stepped
    (momentum, weight decay) as torch does, unlike one whose `.grad` is None, which it skips.
    Costs a copy of the optimiser's state and no matvec.

    Args:
        problem: whose parameters move; for `problem.at(theta)` they start at theta.
        optimizer: any of torch.optim that steps without a closure, or one built like them, or a
            wrapper that holds one as `optimizer`.
        gradient: (n,), such as `problem.gradient()`; clip it first if training does.

    Raises:
        ValueError: if the gradient is not a finite vector (n,), a parameter is not the optimiser's,
            or its step needs a closure or sparse gradients.

    >>> import torch, hesscope as hs
    >>> p = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(2).double())
    >>> sgd = torch.optim.SGD(p.model.parameters(), lr=0.25)
    >>> update(p, sgd, p.gradient()).step
    tensor([-0.5000, -0.5000], dtype=torch.float64)
    """
    optimizer = unwrapped(optimizer)
    _refuse_unusual(optimizer)
    if not bool(torch.isfinite(gradient).all()):
        msg = "the gradient is NaN or infinite, and so would be the step; look at problem.loss()."
        raise ValueError(msg)
    pieces = problem.layout.split(gradient.detach())
    clones: dict[int, Tensor] = {}
    for p, leaf, piece in zip(
        held(problem, optimizer), problem.point.leaves(), pieces, strict=True
    ):
        clone = nn.Parameter(leaf.detach().clone())
        clone.grad = piece.to(clone.device, clone.dtype).clone()
        clones[id(p.parameter)] = clone
    _make_step(_shadow(optimizer, clones))
    start = problem.theta
    after = flatten([clone.detach().to(start.dtype) for clone in clones.values()])
    coarsest = max((clone.dtype for clone in clones.values()), key=rounding.eps)
    off = rounding.stored(coarsest, float(start.norm()))
    return Update(after - start, type(optimizer).__name__, off)


def _make_step(shadow: Optimizer) -> None:
    """One step; what goes wrong in a class of the user's own is told as that.

    Raises:
        ValueError: if the class needs more than gradients, as SAM needs a closure.
    """
    kind = kind_of(shadow)
    if kind is not None and kind.root is None:
        shadow.step()
        return
    try:
        shadow.step()
    except Exception as error:
        name = type(shadow).__name__
        msg = (
            f"one gradient does not tell the next step of {name}: on a copy of it, {name}.step() "
            f"raised {type(error).__name__}: {error}"
        )
        raise ValueError(msg) from error


def _refuse_unusual(optimizer: Optimizer) -> None:
    """Refuses what cannot make a step from a dense gradient alone.

    Raises:
        ValueError: naming the reason.
    """
    kind = type(optimizer).__name__
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        msg = (
            f"{kind} evaluates the loss during its step (a closure), so one gradient is too little."
        )
        raise ValueError(msg)
    if isinstance(optimizer, torch.optim.SparseAdam):
        msg = "SparseAdam steps from sparse gradients; use Adam to see its step."
        raise ValueError(msg)


def _shadow(optimizer: Optimizer, clones: Mapping[int, Tensor]) -> Optimizer:
    """A copy of the optimiser that holds the clones in place of their originals, and nothing else.

    Rebuilt without its constructor, whose arguments are not known, the way unpickling does it.
    """
    groups = []
    for group in optimizer.param_groups:
        inside = [clones[id(p)] for p in group["params"] if id(p) in clones]
        if inside:
            options = {name: _copied(x) for name, x in group.items() if name != "params"}
            groups.append({**options, "params": inside})
    state: defaultdict[Tensor, Any] = defaultdict(dict)
    for parameter, content in optimizer.state.items():
        if id(parameter) in clones:
            state[clones[id(parameter)]] = _copied(content)
    shadow = type(optimizer).__new__(type(optimizer))
    shadow.__setstate__(
        {"defaults": _copied(optimizer.defaults), "state": state, "param_groups": groups}
    )
    for name, value in vars(optimizer).items():  # what a class of one's own keeps besides
        if name not in vars(shadow) and name != "step":  # schedulers wrap the live one's step
            setattr(shadow, name, _copied(value))
    return shadow


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    return copy.deepcopy(value)

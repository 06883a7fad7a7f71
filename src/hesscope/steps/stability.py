"""How large the steps of an optimiser may be near a minimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from hesscope.steps.gains import Group, State
from hesscope.steps.kind import Kind
from hesscope.steps.kinds import (
    furthest_state,
    kind_of,
    parent_of,
    unwrapped,
    with_thresholds,
)


@dataclass(frozen=True)
class Threshold:
    """Steps contract near a minimum when λmax(lr P^-1 (H + weight_decay I)) < factor, else grow.

    `StepHessian` is this operator, with the optimiser's own lr, P and weight decay.
    """

    factor: float
    formula: str
    source: str
    lr: tuple[float, ...]  # of each parameter group, after the optimiser's own decay and dampening
    weight_decay: tuple[float, ...]  # of each group, where it is part of the gradient


def threshold(optimizer: Optimizer) -> Threshold:
    """The factor that λmax(lr P^-1 (H + weight_decay I)) must stay below for stable steps.

    On a quadratic with P held fixed the fastest eigendirection starts to oscillate with growing
    size exactly there (the recurrence has a root at -1): 2 for gradient descent, ASGD, RMSprop,
    Adagrad and Adadelta; 2 + 2β with heavy-ball momentum β; (2 + 2β)/(1 + 2β) with Nesterov's;
    (2 + 2β₁)/(1 - β₁) for Adam, RAdam and Adamax, whose momentum is an average and whose P is that
    of `PreconditionedHessian`, bias corrections included; 2/(a + b(1 - β₁)/(1 + β₁)) for NAdam,
    which gives the gradient the weight a and the average b; that of Adam for SOAP and 2 for
    Shampoo, whose P is no diagonal (`hesscope.steps.guests`); 2 for Adafactor, whose steps near a
    minimum are not clipped and whose P counts the size of the parameters in. Decoupled weight decay
    (AdamW) makes the first 2 a 2 - lr·wd. Dampening τ multiplies the lr by 1 - τ, the lr decay of
    Adagrad and ASGD and the cap of Adafactor are counted in, and decay that is part of the gradient
    adds to H: see `Threshold`. A learning rate of zero is one like any other.

    Parameter groups may differ in lr and weight decay, not in what makes the factor.

    Raises:
        ValueError: if no threshold is known; `why_unknown` says so without an error.

    >>> import torch
    >>> w = [torch.nn.Parameter(torch.zeros(2))]
    >>> threshold(torch.optim.Adam(w)).factor  # (2 + 2·0.9)/(1 - 0.9): 38
    38.0
    >>> threshold(torch.optim.SGD(w, lr=0.1, momentum=0.9)).formula
    '2 + 2β'
    """
    optimizer = unwrapped(optimizer)
    cause, kind = why_unknown(optimizer), kind_of(optimizer)
    if cause or kind is None:
        raise ValueError(cause)
    groups = [(group, furthest_state(optimizer, group)) for group in _groups(optimizer)]
    # Groups differ in decoupled decay at most, and in time for NAdam: the least is on the safe side
    factor, formula = min(_factor(kind, group, state) for group, state in groups)
    return Threshold(
        factor=float(f"{factor:.12g}"),
        formula=formula,
        source=kind.source,
        lr=tuple(kind.rate(group, state) for group, state in groups),
        weight_decay=tuple(kind.coupled_decay(group) for group, _ in groups),
    )


def why_unknown(optimizer: Optimizer) -> str:
    """Why no stability threshold is known for an optimiser; empty where one is.

    Raises:
        ValueError: if it is no optimiser.

    >>> import torch
    >>> w = [torch.nn.Parameter(torch.zeros(2, 2))]
    >>> why_unknown(torch.optim.NAdam(w))
    ''
    >>> print(why_unknown(torch.optim.Rprop(w)))
    no stability threshold is known for Rprop: it steps by the sign of the gradient, so that its
    steps do not shrink with it.
    """
    optimizer = unwrapped(optimizer)
    kind, name = kind_of(optimizer), type(optimizer).__name__
    groups = _groups(optimizer)
    if any(group.get("maximize") for group in groups) or getattr(optimizer, "maximize", False):
        return "this optimiser maximises: it climbs, and no step size makes that stable."
    if kind is None:
        return _of_no_kind(optimizer)
    if kind.unknown or kind.gain is None:
        return f"no stability threshold is known for {name}: {kind.unknown}."
    rules = {(_factor(kind, group, {})[1], kind.gain(group, {}).momentum) for group in groups}
    if len(rules) > 1:
        return (
            f"the parameter groups of {name} differ in momentum, so no single factor holds; judge "
            "them one by one: problem.block(names) with an optimiser that holds those alone."
        )
    return ""


def why_uphill(optimizer: Optimizer) -> str:
    """What may turn a step against its own gradient: the sign, what came before, weight decay.

    >>> import torch
    >>> w = [torch.nn.Parameter(torch.zeros(2))]
    >>> why_uphill(torch.optim.SGD(w, lr=0.1, maximize=True))
    'maximize=True asks for it'
    """
    optimizer = unwrapped(optimizer)
    groups = _groups(optimizer)
    if any(group.get("maximize") for group in groups):
        return "maximize=True asks for it"
    causes = ["earlier gradients"] if optimizer.state else []
    if any(group.get("weight_decay") for group in groups):
        causes.append("weight decay")
    what = " or ".join(causes) or f"the rule of {type(optimizer).__name__}"
    return f"it comes from {what}, not from this gradient"


def _of_no_kind(optimizer: Optimizer) -> str:
    name, parent = type(optimizer).__name__, parent_of(optimizer)
    if parent is not None:
        return (
            f"no stability threshold is known for {name}: it overrides the step of {parent.name}, "
            "so its steps need not be those."
        )
    return f"no stability threshold is known for {name}; {with_thresholds()} have one."


def _factor(kind: Kind, group: Group, state: State) -> tuple[float, str]:
    """The threshold of one group, (2 - s) times the gain of its momentum, and its formula."""
    assert kind.gain is not None
    gain = kind.gain(group, state)
    if not kind.is_decoupled(group):
        return 2 * gain.value, gain.formula
    shrink = float(group["lr"]) * kind.decay(group)
    if kind.decays_last:  # x <- (1 - s)(x - step)
        return (2 - shrink) / (1 - shrink) * gain.value, f"{gain.decoupled}/(1 - lr·wd)"
    return (2 - shrink) * gain.value, gain.decoupled


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if group["params"]]

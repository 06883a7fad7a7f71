"""How large the steps of an optimiser may be near a minimum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

COHEN_2021 = "Cohen, Kaur, Li, Kolter and Talwalkar 2021, appendix B"


COHEN_2022 = "Cohen, Ghorbani, Krishnan et al. 2022, section 3"


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
    size exactly there (the recurrence has a root at -1): 2 for gradient descent, RMSprop and
    Adagrad; 2 + 2β with heavy-ball momentum β; (2 + 2β)/(1 + 2β) with Nesterov's; and
    (2 + 2β₁)/(1 - β₁) for Adam, whose momentum is an average and whose P is that of
    `PreconditionedHessian`, bias corrections included. Decoupled weight decay (AdamW) makes the
    first 2 of Adam's a 2 - lr·wd. Dampening τ multiplies the lr by 1 - τ, Adagrad's lr decay is
    counted in, and decay that is part of the gradient adds to H: see `Threshold`.

    Parameter groups may differ in lr and weight decay, not in what makes the factor.

    Raises:
        ValueError: if the optimiser maximises, is of another kind, or its groups differ in factor.

    >>> import torch
    >>> w = [torch.nn.Parameter(torch.zeros(2))]
    >>> threshold(torch.optim.Adam(w)).factor  # (2 + 2·0.9)/(1 - 0.9): 38
    38.0
    >>> threshold(torch.optim.SGD(w, lr=0.1, momentum=0.9)).formula
    '2 + 2β'
    """
    kind = type(optimizer).__name__
    groups = [group for group in optimizer.param_groups if group["params"]]
    if any(group.get("maximize") for group in groups):
        msg = "this optimiser maximises: it climbs, and no step size makes that stable."
        raise ValueError(msg)
    rules = [_rule(kind, group) for group in groups]
    momenta = {float(group.get("momentum", group.get("betas", (0,))[0])) for group in groups}
    if len({formula for _, formula, _ in rules}) > 1 or len(momenta) > 1:
        msg = (
            f"the parameter groups of {kind} differ in momentum, so no single factor holds; judge "
            "them one by one: problem.block(names) with an optimiser that holds those alone."
        )
        raise ValueError(msg)
    factor, formula, source = min(rules)  # groups differ in decoupled decay at most
    return Threshold(
        factor=float(f"{factor:.12g}"),
        formula=formula,
        source=source,
        lr=tuple(long_run_lr(optimizer, group) for group in groups),
        weight_decay=tuple(coupled_decay(kind, group) for group in groups),
    )


def _rule(kind: str, group: Mapping[str, Any]) -> tuple[float, str, str]:
    """(factor, formula, source) of one parameter group.

    Raises:
        ValueError: if the kind is not one whose threshold is known.
    """
    if kind in ("Adam", "AdamW"):
        beta = float(group["betas"][0])
        if group.get("decoupled_weight_decay", kind == "AdamW"):
            shrink = float(group["lr"]) * float(group["weight_decay"])
            return (
                (2 - shrink) * (1 + beta) / (1 - beta),
                "(2 - lr·wd)(1 + β₁)/(1 - β₁)",
                COHEN_2022,
            )
        return (2 + 2 * beta) / (1 - beta), "(2 + 2β₁)/(1 - β₁)", COHEN_2022
    if kind == "Adagrad":
        return 2.0, "2", COHEN_2022
    if kind not in ("SGD", "RMSprop"):
        msg = (
            f"no stability threshold is known for {kind}; SGD, RMSprop, Adagrad, Adam(W) have one."
        )
        raise ValueError(msg)
    beta, source = float(group["momentum"]), COHEN_2021 if kind == "SGD" else COHEN_2022
    if beta == 0:
        return 2.0, "2", source
    if group.get("nesterov"):
        return (2 + 2 * beta) / (1 + 2 * beta), "(2 + 2β)/(1 + 2β)", source
    return 2 + 2 * beta, "2 + 2β", source


def long_run_lr(optimizer: Optimizer, group: Mapping[str, Any]) -> float:
    """The lr that multiplies the gradient in the long run: dampened, or decayed by Adagrad."""
    lr = float(group["lr"])
    if float(group.get("momentum", 0)) != 0:
        lr *= 1 - float(group.get("dampening", 0))
    if group.get("lr_decay"):
        states = (optimizer.state.get(p, {}) for p in group["params"])
        steps = max((float(state["step"]) for state in states if "step" in state), default=0.0)
        lr /= 1 + steps * float(group["lr_decay"])
    return lr


def coupled_decay(kind: str, group: Mapping[str, Any]) -> float:
    """The weight decay that is added to the gradient, λ θ; 0 where it is decoupled."""
    if group.get("decoupled_weight_decay", kind == "AdamW"):
        return 0.0
    return float(group.get("weight_decay", 0.0))

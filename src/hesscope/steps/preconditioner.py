"""The diagonal preconditioner of an optimiser, read from its live state."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def diagonal_of(
    optimizer: Optimizer, group: dict[str, Any], state: dict[str, Any], leaf: Tensor, name: str
) -> Tensor:
    """P on one parameter tensor, exactly as torch's optimisers apply it.

    Raises:
        ValueError: if the optimiser is of another kind, or has no state yet.
    """
    kind = type(optimizer).__name__
    if kind == "SGD":
        return torch.ones_like(leaf)
    if kind not in ("RMSprop", "Adagrad", "Adam", "AdamW"):
        msg = f"{kind} is not supported; SGD, RMSprop, Adagrad and Adam(W) are."
        raise ValueError(msg)
    if not state:
        msg = f"{kind} has no state for {name} yet; make at least one optimiser step first."
        raise ValueError(msg)
    if kind == "Adagrad":
        return state["sum"].sqrt() + group["eps"]
    if kind == "RMSprop":
        return _rmsprop_variance(group, state).sqrt() + group["eps"]
    return _adam(group, state)


def _rmsprop_variance(group: dict[str, Any], state: dict[str, Any]) -> Tensor:
    """E[g²], or the variance E[g²] - E[g]² of the centred version."""
    if not group["centered"]:
        return _tensor(state["square_avg"])
    return _tensor(state["square_avg"]) - _tensor(state["grad_avg"]).square()


def _adam(group: dict[str, Any], state: dict[str, Any]) -> Tensor:
    """The step is lr m/(1 - β₁ᵗ) / (√(v/(1 - β₂ᵗ)) + eps), with the largest v for AMSGrad."""
    beta1, beta2 = (float(beta) for beta in group["betas"])
    t = float(state["step"])
    v = _tensor(state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"])
    return (v.sqrt() / math.sqrt(1 - beta2**t) + group["eps"]) * (1 - beta1**t)


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value

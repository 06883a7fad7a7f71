"""The diagonal preconditioners P of torch's optimisers, read from their live state.

Each formula is P on one parameter tensor, exactly as the last step divided by it: the options of
the parameter's group and its state in, a tensor of its shape out.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from hesscope import rounding
from hesscope.steps.gains import Group, State


def rmsprop(group: Group, state: State) -> Tensor:
    """√E[g²] + eps, or with the variance E[g²] - E[g]² for the centred version."""
    variance = _tensor(state["square_avg"])
    if group["centered"]:
        variance = variance - _tensor(state["grad_avg"]).square()
    return variance.sqrt() + group["eps"]


def adagrad(group: Group, state: State) -> Tensor:
    """√(Σ g²) + eps."""
    return _tensor(state["sum"]).sqrt() + group["eps"]


def adadelta(group: Group, state: State) -> Tensor:
    """√(E[g²] + eps) / √(E[d²] + eps), with d the past steps (Zeiler 2012).

    E[d²] is that of the next step: the last one has used it before it was brought up to date.
    """
    past = (_tensor(state["acc_delta"]) + group["eps"]).sqrt()
    return (_tensor(state["square_avg"]) + group["eps"]).sqrt() / past


def adam(group: Group, state: State) -> Tensor:
    """The step is lr m/(1 - β₁ᵗ) / (√(v/(1 - β₂ᵗ)) + eps), with the largest v for AMSGrad."""
    beta1, _, t = _betas(group, state)
    v = _tensor(state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"])
    return _corrected(group, state, v) * (1 - beta1**t)


def nadam(group: Group, state: State) -> Tensor:
    """√(v/(1 - β₂ᵗ)) + eps; the bias of m is corrected with that of g: see `gains.nadam`."""
    return _corrected(group, state, _tensor(state["exp_avg_sq"]))


def radam(group: Group, state: State) -> Tensor:
    """Adam's with a step that is r times as long; without v while too few gradients are averaged.

    The average of v behaves as one of ρ = ρ∞ - 2tβ₂ᵗ/(1 - β₂ᵗ) gradients, ρ∞ = 2/(1 - β₂) - 1.
    From ρ > 5 on, r² = (ρ - 4)(ρ - 2)ρ∞ / ((ρ∞ - 4)(ρ∞ - 2)ρ); before, the step is lr m/(1 - β₁ᵗ)
    (Liu et al. 2020, "On the variance of the adaptive learning rate and beyond", algorithm 2).
    """
    beta1, beta2, t = _betas(group, state)
    v = _tensor(state["exp_avg_sq"])
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / (1 - beta2**t)
    if length <= 5:
        return v.new_full(v.shape, 1 - beta1**t)
    r2 = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return (v.sqrt() + group["eps"]) * (1 - beta1**t) / math.sqrt(r2 * (1 - beta2**t))


def adamax(group: Group, state: State) -> Tensor:
    """u (1 - β₁ᵗ), u the decaying maximum of |g| + eps (Kingma and Ba 2015, section 7.1)."""
    beta1, _, t = _betas(group, state)
    return _tensor(state["exp_inf"]) * (1 - beta1**t)


def adafactor(group: Group, state: State) -> Tensor:
    """√V̂, V̂ = R C'/mean(R) for matrices, the factors R and C means of g² over columns and rows.

    The step is lr √(mean θ²) g/√V̂, clipped where g/√V̂ is larger than d on average, which near a
    minimum it is not (Shazeer and Stern 2018, "Adafactor", algorithms 4 and 5; eps as torch has
    it). The size of the parameters is `parameter_size`.
    """
    if "variance" in state:
        v = _tensor(state["variance"])
        eps = _first_eps(group, v)
    else:
        rows, columns = _tensor(state["row_var"]), _tensor(state["col_var"])
        eps = _first_eps(group, rows)
        v = rows @ columns / rows.mean(dim=-2, keepdim=True).clamp(min=eps)
    return v.clamp(min=eps**2).sqrt()


def parameter_size(group: Group, parameter: Tensor) -> float:
    """What Adafactor's steps are multiples of: √(mean θ²), or eps₂ where that is larger."""
    mean = float(parameter.detach().norm()) / parameter.numel() ** 0.5
    return max(float(group["eps"][1]), mean)


def _first_eps(group: Group, like: Tensor) -> float:
    """eps₁, by default that of the dtype."""
    eps = group["eps"][0]
    return rounding.eps(like.dtype) if eps is None else float(eps)


def _corrected(group: Group, state: State, v: Tensor) -> Tensor:
    """√(v/(1 - β₂ᵗ)) + eps."""
    _, beta2, t = _betas(group, state)
    return v.sqrt() / math.sqrt(1 - beta2**t) + group["eps"]


def _betas(group: Group, state: State) -> tuple[float, float, float]:
    """β₁, β₂ and the number t of steps made."""
    return float(group["betas"][0]), float(group["betas"][1]), float(state["step"])


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value

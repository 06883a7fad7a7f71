"""How far momentum moves the edge of stability, for each way in which optimisers use it.

On one eigendirection of P⁻¹H with eigenvalue λ, and P held fixed, every optimiser here is

    m ← β m + κ λ x,    x ← (1 - s) x - lr (a λ x + b m),

with s = lr·wd where weight decay is decoupled, else 0. The step oscillates without end, x ∝ (-1)ᵗ,
where m = κ λ x/(1 + β) by the first equation and so, by the second,

    lr λ = (2 - s) · gain,    gain = 1/(a + b κ/(1 + β)).

Its polynomial z² - T z + D has both roots inside the unit circle if and only if |T| < 1 + D and
D < 1 (Jury), here 1 - T + D = s (1 - β) + lr λ (a (1 - β) + b κ) > 0 and D = β (1 - s - lr λ a) < 1
whatever lr is. So -1 is where the first root leaves: steps shrink below that lr, and grow above.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Group = Mapping[str, Any]
State = Mapping[str, Any]


@dataclass(frozen=True)
class Gain:
    """The threshold over that of gradient descent, and the threshold as a formula."""

    value: float
    momentum: float  # β
    formula: str  # without decoupled weight decay
    decoupled: str = ""  # with it
    weights: tuple[float, float, float] = (1.0, 0.0, 1.0)  # a, b and κ


def descent(group: Group, state: State) -> Gain:  # noqa: ARG001  one signature for all
    """No momentum: a = 1, b = 0."""
    return Gain(1.0, 0.0, "2", "2 - lr·wd")


def heavy_ball(group: Group, state: State) -> Gain:
    """m ← β m + g, of which the step takes m (a = 0, b = κ = 1), or g + β m (a = κ = 1, b = β)."""
    beta = float(group["momentum"])
    if beta == 0:
        return descent(group, state)
    if group.get("nesterov"):
        value = (1 + beta) / (1 + 2 * beta)
        return Gain(value, beta, "(2 + 2β)/(1 + 2β)", weights=(1.0, beta, 1.0))
    return Gain(1 + beta, beta, "2 + 2β", weights=(0.0, 1.0, 1.0))


def average(group: Group, state: State) -> Gain:  # noqa: ARG001
    """m ← β₁ m + (1 - β₁) g, of which the step takes m: a = 0, b = 1, κ = 1 - β₁."""
    beta = float(group["betas"][0])
    return Gain(
        (1 + beta) / (1 - beta),
        beta,
        "(2 + 2β₁)/(1 - β₁)",
        "(2 - lr·wd)(1 + β₁)/(1 - β₁)",
        (0.0, 1.0, 1 - beta),
    )


def nadam(group: Group, state: State) -> Gain:
    """The average m and the gradient: κ = 1 - β₁ with weights a and b that change with time.

    At step t, μₜ = β₁ (1 - 0.96^(ψt)/2) and Πₜ = μ₁ ... μₜ, a = (1 - μₜ)/(1 - Πₜ) and
    b = μₜ₊₁/(1 - Πₜ₊₁) (Dozat 2016, "Incorporating Nesterov momentum into Adam"). Those of the last
    step, or of the first if none is made; in the long run a = 1 - β₁ and b = β₁, so that the
    threshold falls to (2 + 2β₁)/((1 - β₁)(1 + 2β₁)).
    """
    beta, psi = float(group["betas"][0]), float(group["momentum_decay"])
    t = max(float(state.get("step", 0)), 1.0)
    now, later = (beta * (1 - 0.96 ** (psi * at) / 2) for at in (t, t + 1))
    product = float(state["mu_product"]) if state.get("step", 0) else now
    a, b = (1 - now) / (1 - product), later / (1 - product * later)
    return Gain(
        1 / (a + b * (1 - beta) / (1 + beta)),
        beta,
        "2/(a + b(1 - β₁)/(1 + β₁))",
        "(2 - lr·wd)/(a + b(1 - β₁)/(1 + β₁))",
        (a, b, 1 - beta),
    )


def group_rate(group: Group, state: State) -> float:  # noqa: ARG001
    """The lr of the group."""
    return float(group["lr"])


def dampened_rate(group: Group, state: State) -> float:  # noqa: ARG001
    """SGD adds (1 - τ) g to its momentum."""
    dampening = float(group["dampening"]) if float(group["momentum"]) != 0 else 0.0
    return float(group["lr"]) * (1 - dampening)


def adagrad_rate(group: Group, state: State) -> float:
    """The lr decays as 1/(1 + lr_decay t)."""
    return float(group["lr"]) / (1 + float(state.get("step", 0)) * float(group["lr_decay"]))


def asgd_rate(group: Group, state: State) -> float:
    """η of the next step, which the last one has laid down: lr (1 + λ lr t)^-α."""
    return float(state.get("eta", group["lr"]))


def adafactor_rate(group: Group, state: State) -> float:
    """The next step's min(lr, 1/√t)."""
    return min(float(group["lr"]), (float(state.get("step", 0)) + 1) ** -0.5)


def plain_decay(group: Group) -> float:
    """The weight decay of the group."""
    return float(group.get("weight_decay", 0.0))


def asgd_decay(group: Group) -> float:
    """ASGD multiplies θ by 1 - λη and adds its weight decay to the gradient; both shrink θ."""
    return plain_decay(group) + float(group["lambd"])

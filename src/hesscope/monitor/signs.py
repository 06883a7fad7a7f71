"""Rows that cost a pass over the parameters and no product: what tells one trouble from another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesscope.examination import gradients
from hesscope.monitor.check import Check
from hesscope.problem.layers import layer_slices
from hesscope.steps.held import Held, held
from hesscope.steps.kinds import has_diagonal, has_started, is_adaptive
from hesscope.steps.update import update

SECOND_MOMENTS = ("exp_avg_sq", "square_avg", "sum", "exp_inf", "variance")
GRID = 16  # multiples of the least entry up to which a grid is looked for
OFF_GRID = 1e-3  # of a multiple: what clipping and averaging leave of one
FEWEST, ON_GRID = 8, 0.95  # entries near zero, and the share of them on the grid, that make one
FEWEST_OF_ALL = 3  # where these are all that is left


def next_step(look: Check) -> Tensor:
    """(n,) the step that is about to be made."""
    return update(look.problem, look.optimizer, look.training_gradient).step


def layer_norms(look: Check) -> dict[str, float]:
    """The norms of the training gradient, the step and the parameters of each module."""
    measured = {"weight_norm": look.problem.theta}
    if look.question.optimizer is not None:
        measured["gradient_norm"] = look.training_gradient
        measured["update_norm"] = look.of(next_step)
    return {
        f"layer/{name}/{what}": math.hypot(*(float(v[place].norm()) for place in places))
        for name, places in layer_slices(look.problem).items()
        for what, v in measured.items()
    }


def underflow(look: Check) -> dict[str, float]:
    """Shares of parameters that the probe data moves, and of which training knows nothing.

    `gradient_zeros` has a training gradient that is zero to the bit. So has a unit that is dead on
    a small batch; `gradient_underflow` counts zeros only where the least entries beside them are
    whole multiples of one number, as half precision leaves them and nothing else does.
    `moment_underflow` likewise has a second moment of zero: the step divides by eps there.
    """
    alive = look.of(gradients.gradient) != 0
    count = max(int(alive.sum()), 1)
    trained = look.training_gradient
    zeros = float(((trained == 0) & alive).sum()) / count
    found = {"gradient_zeros": zeros, "gradient_underflow": zeros if _on_grid(trained) else 0.0}
    moments = _second_moments(look)
    if moments is None:
        return found
    lost = float(((moments == 0) & alive).sum()) / count
    return {**found, "moment_underflow": lost if _on_grid(moments) else 0.0}


def _on_grid(gradient: Tensor) -> bool:
    """Whether the entries nearest zero are multiples of the least one; so if there are none."""
    sizes = gradient.abs()
    sizes = sizes[sizes > 0].double()
    if not len(sizes):
        return True
    multiples = sizes / sizes.min()
    multiples = multiples[multiples <= GRID]
    on_grid = (multiples - multiples.round()).abs() <= OFF_GRID * multiples
    fewest = FEWEST if len(multiples) < len(sizes) else FEWEST_OF_ALL
    return len(multiples) >= fewest and float(on_grid.double().mean()) >= ON_GRID


def lag(look: Check) -> dict[str, float] | None:
    """How far the training gradient has outgrown what an adaptive optimiser remembers of it.

    `preconditioner_lag` is ‖g‖ over the root of the sum of its second moments, bias corrected:
    about 1 where they keep up, and more than 1 where the gradient has grown within the memory of
    the average, `preconditioner_memory` = 1/(1 - β₂) steps.
    """
    if not has_diagonal(look.optimizer) or not has_started(look.optimizer):
        return None
    parameters = held(look.problem, look.optimizer)
    beta2 = max(_beta2(p) for p in parameters)
    squares = sum(_remembered(p) for p in parameters)
    if not 0 < beta2 < 1 or not squares > 0:
        return None
    ratio = float(look.training_gradient.double().norm()) / math.sqrt(squares)
    return {"preconditioner_lag": ratio, "preconditioner_memory": 1 / (1 - beta2)}


def _second_moments(look: Check) -> Tensor | None:
    """(n,) the second moments of an adaptive optimiser that has stepped, as they are stored."""
    if look.question.optimizer is None or not has_started(look.optimizer):
        return None
    if is_adaptive(look.optimizer) and not has_diagonal(look.optimizer):
        return None  # moments in another basis
    pieces = [_moment(p) for p in held(look.problem, look.optimizer)]
    if any(piece is None for piece in pieces):
        return None
    return torch.cat([piece.flatten() for piece in pieces if piece is not None])


def _moment(p: Held) -> Tensor | None:
    """The second moment of a parameter, where there is one of each entry."""
    stored = (p.state.get(key) for key in SECOND_MOMENTS)
    found = next((x for x in stored if isinstance(x, Tensor)), None)
    return found if found is not None and found.shape == p.parameter.shape else None


def _remembered(p: Held) -> float:
    """The sum of the averages of g² of one parameter, bias corrected."""
    moment = p.state.get("exp_avg_sq", p.state.get("square_avg"))
    if moment is None:
        return 0.0
    bias = 1 - _beta2(p) ** float(p.state["step"]) if "betas" in p.group else 1.0
    return float(moment.double().sum()) / bias


def _beta2(p: Held) -> float:
    """The decay of the average of g²; 0 where there is none."""
    if "betas" in p.group:
        return float(p.group["betas"][1])
    return float(p.group.get("alpha", p.group.get("rho", 0.0)))

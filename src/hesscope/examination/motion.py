"""Quantities of the next step, and of the way down from where the loss hardly falls."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hesscope import rounding
from hesscope.curvature.norm_ball import ball_sharpness
from hesscope.curvature.preconditioned import StepHessian
from hesscope.examination.gradients import along_gradient, gradient, gradient_noise, loss
from hesscope.examination.look import Look
from hesscope.examination.spectral import curvature, eigenpairs
from hesscope.krylov.eigsh import eigsh
from hesscope.landscape.escape import escape as escape_from
from hesscope.landscape.flat import COST as FLAT_COST
from hesscope.landscape.flat import fall_along
from hesscope.landscape.height import height
from hesscope.landscape.smoothness import smoothness as smoothness_along
from hesscope.problem.problem import Problem
from hesscope.results.descent import Descent
from hesscope.results.landscape import Escape
from hesscope.results.smoothness import Smoothness
from hesscope.results.step import Step
from hesscope.steps.kinds import ball_of, has_started, is_adaptive
from hesscope.steps.moments import recurrence_of
from hesscope.steps.stability import threshold, why_unknown, why_uphill
from hesscope.steps.update import update

BALL = (
    "steepest descent in a norm: Bernstein and Newhouse 2024, for the steps of Jordan et al. 2024"
)
STUCK = 1e-6  # of the loss per step: below, a way out along negative curvature is looked for


@dataclass(frozen=True)
class Direction:
    """The way of the next step: d, Hd, and what it is."""

    d: Tensor
    product: Tensor
    name: str


def direction(look: Look) -> Direction:
    """The optimiser's real update, or that of gradient descent with the best or the given lr."""
    g, q = look.of(gradient), look.question
    g_dot_g, g_dot_Hg, Hg = look.of(along_gradient)
    if q.optimizer is not None:
        d = update(look.problem, q.optimizer, g).step
        return Direction(d, look.along(d)[1], "the step")
    if q.lr is not None:
        return Direction(-q.lr * g, -q.lr * Hg, "the step")
    best = g_dot_g / g_dot_Hg if g_dot_Hg > 0 else math.nan
    return Direction(-best * g, -best * Hg, "the best step along the gradient")


def step(look: Look) -> Step:
    """The next step beside the curvature, and what the optimiser can bear."""
    g_dot_g, g_dot_Hg, Hg = look.of(along_gradient)
    bounds = look.of(curvature)
    bend = math.sqrt(look.dot(Hg, Hg))
    found = Step(g_dot_g, g_dot_Hg, bounds.lambda_max, bounds.lambda_max_error, Hg_norm=bend)
    q = look.question
    if q.optimizer is None and q.lr is None:
        return found
    way, before = look.of(direction), look.of(loss)
    look.spend(gradients=0.5)
    found = replace(
        found,
        slope=look.dot(look.of(gradient), way.d),
        curvature=look.dot(way.d, way.product),
        change=height(look.problem, look.problem.theta + way.d) - before,
        rounding=rounding.loss_noise(look.problem.dtype, before),
        loss=before,
        running_statistics=_running_statistics(look.problem),
    )
    if q.optimizer is None:
        return replace(found, lr=q.lr)
    uphill = why_uphill(q.optimizer) if found.slope > 0 else ""
    return replace(found, uphill=uphill, **_bears(look, q.optimizer, bounds.lambda_max))


def _bears(look: Look, optimizer: Optimizer, lambda_max: float) -> dict[str, Any]:
    """The learning rate, what the optimiser can bear, and λmax of P⁻¹(H + weight decay).

    Without preconditioner and with one learning rate that λmax is known; otherwise it takes a
    run of its own, and is given relative to the largest learning rate. Before the first step
    of an adaptive optimiser there is no P, and nothing is known.
    """
    name = type(optimizer).__name__
    if ball_of(optimizer) is not None:
        return _on_a_ball(look, optimizer)
    why = why_unknown(optimizer)
    if why:
        lr = max(float(group["lr"]) for group in optimizer.param_groups)
        unknown = f"is not known ({why.rstrip('.')})"
        return {"lr": lr, "factor": math.nan, "optimizer": name, "unknown": unknown}
    limit = threshold(optimizer)
    known: dict[str, Any] = {
        "lr": max(limit.lr),
        "factor": limit.factor,
        "formula": f"({limit.formula})/λmax",
        "optimizer": name,
        "accumulation": recurrence_of(optimizer).accumulation,
        "adaptive": is_adaptive(optimizer),
        "source": limit.source,
    }
    alike = len(set(limit.lr)) == 1 and len(set(limit.weight_decay)) == 1
    if not is_adaptive(optimizer) and alike:
        return {**known, "sharpness": lambda_max + limit.weight_decay[0]}
    if not has_started(optimizer):
        return {**known, "factor": math.nan}
    top = eigsh(
        StepHessian(look.problem, optimizer, lr=1.0),
        1,
        verify=False,
        tol=1e-2,
        max_matvecs=max(look.question.spending.preconditioned, 4),
        seed=look.question.seed,
    )
    look.spend(top.num_matvecs)
    known["formula"] = f"({limit.formula})/λmax of P⁻¹H"
    return {**known, "sharpness": float(top.eigenvalues[0])}


def _on_a_ball(look: Look, optimizer: Optimizer) -> dict[str, Any]:
    """What the gradient of now lets steps of fixed length be."""
    found = ball_sharpness(
        look.problem,
        optimizer,
        look.of(gradient),
        look.of(direction).d,
        max_matvecs=max(look.question.spending.preconditioned, 4),
    )
    look.spend(found.num_matvecs)
    return {
        "lr": max(float(group["lr"]) for group in optimizer.param_groups),
        "factor": 2 * found.dual_norm,
        "sharpness": found.length * found.sharpness,
        "formula": "2 g·d/max d·Hd",
        "optimizer": type(optimizer).__name__,
        "fixed_length": True,
        "source": BALL,
    }


def escape(look: Look) -> Escape | None:
    """The way down along negative curvature, where the loss hardly falls along the gradient."""
    if not look.of(curvature).negative:
        return None
    if not (_is_zero(look) or _at_noise(look) or _progress(look) < STUCK):
        return None
    found = escape_from(look.problem, look.of(eigenpairs), seed=look.question.seed)
    look.spend(found.num_matvecs, found.num_gradients + found.num_evaluations / 3)
    return found


def flat_fall(look: Look) -> float | None:
    """How far the loss falls along the flattest direction, at a critical point without a curve."""
    bounds = look.of(curvature)
    if bounds.negative or bounds.definite or not _is_zero(look):
        return None
    v = look.of(eigenpairs).eigenvectors[:, -1]
    look.spend(gradients=FLAT_COST / 3)
    return fall_along(look.problem, v / v.norm(), look.of(loss), _gradient_norm(look))


def descent(look: Look) -> Descent:
    """The slope of the loss: how steep, how sure, and how fast it can be walked down."""
    known: dict[str, float] = {}
    way, fell = look.maybe(escape), look.maybe(flat_fall)
    if way is not None:
        known |= {"escaped": way.measured, "predicted": way.predicted}
    if fell is not None:
        known |= {"fell": fell}
    return Descent(
        gradient_norm=_gradient_norm(look),
        gradient_noise=look.of(gradient_noise),
        rounding=_gradient_rounding(look),
        tolerance=look.question.tolerance,
        progress=_progress(look),
        **known,
    )


def smoothness(look: Look) -> Smoothness | None:
    """Derivatives against differences along the next step."""
    if not look.question.effort.radii:
        return None
    way = look.of(direction)
    length = float(way.d.norm())
    if not (math.isfinite(length) and length > 0):
        return None
    found = smoothness_along(
        look.problem, way.d, way.product, name=way.name, seed=look.question.seed
    )
    look.spend(gradients=found.num_gradients)
    return found


def _gradient_norm(look: Look) -> float:
    return math.sqrt(look.of(along_gradient)[0])


def _gradient_rounding(look: Look) -> float:
    bounds = look.of(curvature)
    size = max(abs(bounds.lambda_max), abs(bounds.lambda_min))
    length = float(look.problem.theta.norm())
    return rounding.gradient_noise(look.problem.dtype, size, length)


def _is_zero(look: Look) -> bool:
    return _gradient_norm(look) <= max(_gradient_rounding(look), look.question.tolerance)


def _at_noise(look: Look) -> bool:
    return _gradient_norm(look) <= float(look.of(gradient_noise))


def _progress(look: Look) -> float:
    """The decrease that one step promises, relative to the loss; NaN where that has no meaning.

    The step is the one that is made, or, where none is known, the best one along the gradient.
    """
    before, taken = look.of(loss), look.maybe(step)
    if not before > 0:
        return math.nan
    if taken is not None and taken.lr is not None:
        return -taken.slope / before if taken.slope < 0 else math.nan
    g_dot_g, g_dot_Hg, _ = look.of(along_gradient)
    return g_dot_g**2 / (2 * g_dot_Hg) / before if g_dot_Hg > 0 else math.nan


def _running_statistics(problem: Problem) -> bool:
    """Whether batch normalisation uses its running statistics here, unlike in training."""
    return not problem.training and any(
        isinstance(m, nn.modules.batchnorm._NormBase) and m.running_mean is not None
        for m in problem.model.modules()
    )

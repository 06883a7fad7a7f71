"""Rows of what a step may be: by the loss itself, by random batches, by the ball of its steps."""

from __future__ import annotations

import math

import torch

from hesscope import probes
from hesscope.curvature.norm_ball import ball_sharpness
from hesscope.examination import gradients
from hesscope.landscape.critical import along_step
from hesscope.monitor.check import Check
from hesscope.monitor.signs import next_step
from hesscope.sampling.batch_sharpness import batch_sharpness as batch_sharpness_of
from hesscope.sampling.parts import examples_of
from hesscope.steps.kinds import ball_of, kind_of

BATCHES = 16  # of which the curvature along their own gradients is taken
FURTHEST = 1e6  # multiple of a step, up to which the next look starts where the last one ended


def critical_sharpness(look: Check) -> dict[str, float] | None:
    """2/(lr s) where s is the multiple of the step at which the loss begins to rise, in a bracket.

    At most five forward passes besides that of the loss, for whatever optimiser. The search starts
    where the last one ended. `step_over_critical` is 1/s: above 1 the step climbs.
    """
    d = look.of(next_step)
    if not d.any():
        return None
    slope = look.dot(look.of(gradients.gradient), d)
    rate = max(float(group["lr"]) for group in look.optimizer.param_groups)
    before = look.problem.loss_at(look.problem.theta)
    name, guess = type(look.optimizer).__name__, look.memory.critical
    found = along_step(look.problem, d, slope, before, name, rate, guess)
    look.spend(gradients=0.5 * found.num_losses)
    if 1 / FURTHEST < found.scale < FURTHEST:
        look.memory.critical = found.scale
    low, high = found.critical_lr.low, found.critical_lr.high
    return {
        "critical_sharpness": found.sharpness,
        "critical_sharpness_lower": 2 / high if high > 0 else math.inf,
        "critical_sharpness_upper": 2 / low if low > 0 else math.inf,
        "step_over_critical": 1 / found.scale if found.scale > 0 else math.inf,
    }


def batch_sharpness(look: Check) -> dict[str, float] | None:
    """E g_B·H_B g_B / E g_B·g_B over random batches of the probe data, with its standard error.

    Nothing where the size of the training batches was not told. Over 2/lr it is told for plain SGD
    alone: where it comes to rest with momentum or a preconditioner is not known.
    """
    size = look.question.batch_size
    if size is None:
        return None
    look.memory.num_draws += 1
    own = probes.key(look.question.seed, "batches of the monitor", look.memory.num_draws)
    size = min(size, int(examples_of(look.problem)))
    found = batch_sharpness_of(look.problem, size, num_batches=BATCHES, seed=own)
    look.spend(found.num_matvecs, gradients=found.num_matvecs / 2)
    told = {"batch_sharpness": found.value, "batch_sharpness_stderr": found.stderr}
    if look.question.optimizer is not None and _is_plain(look):
        rate = max(float(group["lr"]) for group in look.optimizer.param_groups)
        told["batch_sharpness_over_limit"] = rate * found.value / 2
    return told


def on_a_ball(look: Check) -> dict[str, float]:
    """What an optimiser with steps of fixed length bears: lr max d·Hd against 2 g·d(g).

    d runs over the ball of its steps. `step_sharpness` is lr max d·Hd / g·d(g), of which the limit
    is 2; the gradient is that of the probe data.
    """
    g, d = look.of(gradients.gradient), look.of(next_step)
    found = ball_sharpness(look.problem, look.optimizer, g, d)
    look.spend(found.num_matvecs)
    rate = max(float(group["lr"]) for group in look.optimizer.param_groups)
    over = rate / found.lr_limit if found.lr_limit > 0 else math.inf
    return {"step_sharpness": 2 * over, "sharpness_over_limit": over}


def _is_plain(look: Check) -> bool:
    """Whether steps are -lr g, without momentum, and one lr for all."""
    kind = kind_of(look.optimizer)
    groups = look.optimizer.param_groups
    return (
        kind is not None
        and kind.optimizer is torch.optim.SGD
        and all(float(group["momentum"]) == 0 for group in groups)
        and len({float(group["lr"]) for group in groups}) == 1
    )


def has_ball(look: Check) -> bool:
    """Whether the optimiser's steps keep their length."""
    return ball_of(look.optimizer) is not None

"""The questions about all data: what a few examples and a few calls do not show."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.checks.derivatives import wrong_gradient, wrong_hessian
from hesscope.checks.differences import direction, first_error, loss_error, second_error
from hesscope.checks.sample import Sample, Tolerances
from hesscope.checks.state import State
from hesscope.problem.parameters import flatten
from hesscope.results.check import Finding

ENOUGH = 1e-4  # relative error of a loss difference in float64 against a gradient in float32
STEPS = (1e-4, 1e-6)
ROUGH = Tolerances((1e-2,), (1e-2, 3e-3), 2e-3, 2e-3, 2e-3)
SOUGHT = 32  # batches among which the one that is wrong is looked for


def gradient_matches_the_loss_of_all_data(state: State) -> Finding | None:
    """One difference of the loss over all data, against the gradient over all data.

    Three losses in float64, where the model runs in it. The gradient is the one that is there, in
    the problem's own dtype, and is computed in float64 if that is not enough.
    """
    sample, problem = state.sample, state.problem
    assert state.gradient is not None  # an earlier question computes it
    if sample.problem.num_items >= problem.num_items:
        return None
    whole = _all_data(state)
    if whole is None or first_error(whole, state.gradient) <= whole.allowed.first:
        return None
    found = wrong_gradient(state, whole, "over all data ")
    if found is None:  # the first gradient is rough in its own precision, or it has changed
        return _changed(state)
    if found.name != "gradient_is_not_the_derivative":
        return found
    return replace(found, cause=f"{found.cause[:-1]}, though not on a few examples{_where(whole)}.")


def _all_data(state: State) -> Sample | None:
    """All data in the precision of the sample; None where the model does not run on it so.

    Raises:
        OutOfMemoryError: if memory runs out.
    """
    sample, problem = state.sample, state.problem
    if not sample.double:
        return sample.over(problem)
    allowed = replace(sample.allowed, steps_first=STEPS, first=ENOUGH)
    whole = replace(sample, problem=problem.in_double(), lifted=True, allowed=allowed)
    try:
        return whole if whole.loss is not None else None
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError):  # it writes float64 into data in float32, for example
        return None


def _where(whole: Sample) -> str:
    """Which batch is wrong, in words; nothing if it is not one of the first."""
    errors: list[tuple[float, int]] = []
    for batch in whole.problem.batches:
        if len(errors) == SOUGHT:
            break
        alone = replace(whole, problem=whole.problem.with_batches([batch.content]))
        errors.append((loss_error(alone, direction(alone.problem, 2), alone.gradient), batch.index))
    error, index = max(errors)
    return f", most in batch {index}" if len(errors) > 1 and error > whole.allowed.first else ""


def loss_stays_the_same(state: State) -> Finding | None:
    """The first batch has the loss and the gradient that it had before all other questions."""
    if state.first is None:
        return None
    problem, batch = state.problem, state.first_batch()
    before, gradient_before = state.first
    with problem.evaluation() as e:
        loss = e.finite_loss(batch)
        gradient = flatten([g.detach() for g in e.derivatives(loss)])
    now, allowed = float(loss.detach()), rounding.same_computation(state.weakest)
    changed = abs(now - before) > allowed * max(abs(before), abs(now))
    if changed or _differ(gradient, gradient_before, 10 * allowed):
        return Finding(
            "stateful_loss",
            f"the first batch had loss {before:.8g} at first and {now:.8g} after "
            f"all else was asked (gradients of norm {float(gradient_before.norm()):.6g} and "
            f"{float(gradient.norm()):.6g}): the model, the loss or a hook counts its calls, or "
            "keeps something of the batches it has seen.",
            "reset that state in forward(), or register it with register_buffer.",
        )
    return None


def _changed(state: State) -> Finding | None:
    """The gradient over all data again: is it the one of the beginning?"""
    assert state.gradient is not None
    now = state.problem.gradient()
    if not _differ(now, state.gradient, 10 * rounding.same_computation(state.weakest)):
        return None
    return Finding(
        "stateful_loss",
        f"the gradient over all data had norm {float(state.gradient.norm()):.6g} at first and has "
        f"{float(now.norm()):.6g} now: the model, the loss or a hook counts its calls, or keeps "
        "something of the batches it has seen.",
        "reset that state in forward(), or register it with register_buffer.",
    )


def _differ(now: Tensor, before: Tensor, allowed: float) -> bool:
    gap = float((now - before).norm())
    return gap > allowed * max(float(now.norm()), float(before.norm()))


def hessian_matches_the_gradient_of_a_batch(state: State) -> Finding | None:
    """One difference of gradients over the whole first batch, in the problem's own precision.

    Kernels that are chosen by the size of a batch are not met by a few examples. Not asked where
    there are kinks, of which many examples cross some. Where rounding may explain what is found,
    the answer comes from float64. Costs two gradients and a product.
    """
    sample, batch = state.sample, state.first_batch()
    if sample.kinks or not sample.double or sample.problem.num_items >= batch.count:
        return None
    own = state.problem.with_batches([batch.content])
    if state.weakest != torch.float64:
        rough = Sample(own, state.weakest, lifted=False, kinks=False, allowed=ROUGH)
        if second_error(rough)[0] <= ROUGH.second:
            return None
    exact = replace(sample, problem=own.in_double(), lifted=True)
    return wrong_hessian(state, exact, "on the whole first batch, ")

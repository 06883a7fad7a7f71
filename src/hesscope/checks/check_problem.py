"""check_problem: are the loss, its gradient and its Hessian what they claim to be?

Fifteen questions in the order of cause and effect; the first that fails is reported with its cause
and its cure, and the rest, which would only echo it, is not asked.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from hesscope.checks.captured import loss_moves_with_the_parameters
from hesscope.checks.data_and_loss import data_is_repeatable, loss_is_finite, parameters_are_finite
from hesscope.checks.derivatives import (
    derivatives_match_at_a_larger_scale,
    gradient_matches_the_loss,
    graph_is_differentiable_again,
    hessian_is_symmetric,
    hessian_matches_the_gradient,
    products_keep_their_digits,
)
from hesscope.checks.means import loss_is_a_mean
from hesscope.checks.repeatable import loss_is_repeatable
from hesscope.checks.state import State
from hesscope.checks.whole import (
    gradient_matches_the_loss_of_all_data,
    hessian_matches_the_gradient_of_a_batch,
    loss_stays_the_same,
)
from hesscope.problem.problem import Problem
from hesscope.results.check import Check, Finding
from hesscope.system import collectives
from hesscope.system.agreement import in_step
from hesscope.system.contexts import public


@public
def check_problem(problem: Problem) -> Check:
    """Says whether second derivatives of this problem can be trusted; never raises for the model.

    In order: finite parameters; data that is the same at every pass; a finite loss; a repeatable
    loss; one that moves with the parameters; a count-weighted mean (batches against their parts); a
    gradient graph that can be differentiated again; u'Hv = v'Hu; differences of the loss and of the
    gradient along random directions against autograd, on sixteen examples from all batches; of the
    loss over all data, of the gradient over a batch, and of both with parameters 2 and 4 times as
    large; a product in the problem's own precision; at last, the loss and gradient of the start. In
    float64 where the model allows it. Kinks (ReLU, max-pooling) raise no alarm: the differences use
    few examples and steps down to 1e-8.

    Costs about 20 gradients on 16 examples, 12 on one batch, and over the data one gradient, three
    losses in float64 and two readings: at most 30 gradients where all data is one large batch.

    >>> import torch, hesscope as hs
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> data = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 1, 0])
    >>> hs.check_problem(hs.Problem(model, torch.nn.functional.cross_entropy, data)).ok
    True
    """
    state = State(problem)
    if problem.inferred:
        told = "; ".join(problem.inferred)
        state.note("inferred", f"{told}.", "give loss_fn or count, if it is otherwise.")
    for test in _TESTS:
        state.asked = True
        fault = _of_any(_asked(test, state))
        if fault is not None:
            fault = _first_cause(fault, state)
            return Check((fault, *state.notes), state.num_matvecs, tuple(state.passed))
        if state.asked:
            state.passed.append(_words(test))
    return Check(tuple(state.notes), state.num_matvecs, tuple(state.passed))


def _of_any(fault: Finding | None) -> Finding | None:
    """The fault, or that which another process has found: none goes on alone."""
    own = None if fault is None else [fault.name, fault.cause, fault.cure]
    said = collectives.first_said(own)
    if fault is not None or said is None:
        return fault
    process, (name, cause, cure) = said
    return Finding(name, f"in process {process}: {cause}", cure)


def _first_cause(fault: Finding, state: State) -> Finding:
    """The fault, or that the loss has changed meanwhile, which breaks whatever is asked."""
    changed = _of_any(_asked(loss_stays_the_same, state))
    return changed if changed is not None and changed.name == "stateful_loss" else fault


def _asked(test: Callable[[State], Finding | None], state: State) -> Finding | None:
    """The answer to one question; a model that cannot be evaluated for it is a finding, too."""
    try:
        with in_step():
            return test(state)
    except Exception as error:  # whatever the user's code raises
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            raise
        return Finding(
            "loss_fails",
            f"the question whether the {_words(test)} could not be asked: {error}",
            "see the cause; the model or the loss fails near its own parameters or on part of a "
            "batch.",
        )


def _words(test: Callable[[State], Finding | None]) -> str:
    return test.__name__.removeprefix("_").replace("_", " ")


_TESTS: tuple[Callable[[State], Finding | None], ...] = (
    parameters_are_finite,
    data_is_repeatable,
    loss_is_finite,
    loss_is_repeatable,
    loss_moves_with_the_parameters,
    loss_is_a_mean,
    graph_is_differentiable_again,
    hessian_is_symmetric,
    gradient_matches_the_loss,
    hessian_matches_the_gradient,
    gradient_matches_the_loss_of_all_data,
    hessian_matches_the_gradient_of_a_batch,
    derivatives_match_at_a_larger_scale,
    products_keep_their_digits,
    loss_stays_the_same,
)

"""The loss of the best constant prediction: what a network reaches that has learned nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hesscope.problem.problem import Problem
from hesscope.system import collectives
from hesscope.system.agreement import together

MOST_ENTRIES = (
    1_000_000  # of one example's outputs: above, the search would cost more than it tells
)
STEPS = 60  # of L-BFGS; cross-entropy and squared error need some ten


def constant_loss(problem: Problem) -> float | None:
    """min over c of the mean loss when every example's output is c; None where it has no meaning.

    For cross-entropy that is the entropy of the labels' frequencies, for squared error the variance
    of the targets: the loss at chance level. c has one entry for each entry of an example's output,
    so for a language model a distribution for each position. Found by L-BFGS in float64 on the
    user's own loss from the mean output, so it is an upper bound, tight for convex losses. None for
    closures and functions, whose outputs are not known, and where outputs differ in shape or have
    more than a million entries. Costs one forward pass, and some sixty evaluations of the loss.

    Raises:
        ValueError: if the loss cannot be computed.

    >>> import math, torch, hesscope as hs
    >>> model, labels = torch.nn.Linear(1, 2), torch.tensor([0, 0, 0, 1])
    >>> data = torch.ones(4, 1), labels
    >>> problem = hs.Problem(model, torch.nn.functional.cross_entropy, data)
    >>> entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    >>> abs(constant_loss(problem) - entropy) < 1e-6
    True
    """
    loss_fn = problem.loss_fn
    if problem.predict is None or loss_fn is None:
        return None
    with together():
        parts = _parts(problem)
    known = collectives.sum_of_number(parts is not None)
    if parts is None or known < collectives.num_processes():
        return None
    own = [w * mean for _, _, w, mean in parts]
    mean = collectives.sum_over_processes(torch.stack(own).sum(0) if own else None)
    if mean.numel() > MOST_ENTRIES or not bool(mean.isfinite().all()):
        return None

    def loss_at(c: Tensor) -> Tensor:
        losses = [w * loss_fn(c.expand(shape), t) for shape, t, w, _ in parts]
        return torch.stack(losses).sum() if losses else 0 * c.sum()

    return _lowest(loss_at, mean)


def _parts(problem: Problem) -> list[tuple[torch.Size, Any, float, Tensor]] | None:
    """Shape and mean of the outputs of each batch, with its targets and weight.

    None where the outputs of examples have no shape in common.
    """
    parts: list[tuple[torch.Size, Any, float, Tensor]] = []
    with problem.evaluation() as e, torch.no_grad():
        for batch in problem.batches:
            outputs, target = e.outputs(batch)
            if outputs.ndim == 0 or (parts and outputs.shape[1:] != parts[0][0][1:]):
                return None
            w = batch.count / problem.num_items
            parts.append((outputs.shape, _double(target), w, outputs.double().mean(0)))
    return parts


def _lowest(loss_at: Callable[[Tensor], Tensor], start: Tensor) -> float | None:
    """The lowest loss that L-BFGS meets; None if it meets none that is finite."""
    c = start.clone().requires_grad_()
    search = torch.optim.LBFGS([c], max_iter=STEPS, line_search_fn="strong_wolfe")
    met: list[float] = []

    def closure() -> Tensor:
        search.zero_grad()
        with together():
            loss = loss_at(c)
            loss.backward()
        assert c.grad is not None
        own = torch.cat([loss.detach().reshape(1), c.grad.flatten()])
        found = collectives.sum_over_processes(own)
        c.grad.copy_(found[1:].view_as(c))
        met.append(float(found[0]))
        return found[0]

    search.step(closure)
    finite = [loss for loss in met if math.isfinite(loss)]
    return min(finite, default=None)


def _double(target: Any) -> Any:
    """Targets in float64, where they are numbers, as the search for the constant is."""
    if isinstance(target, Tensor) and target.is_floating_point():
        return target.double()
    return target

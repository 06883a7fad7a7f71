"""torch's L-BFGS on all examples, with a strong Wolfe line search."""

from __future__ import annotations

from contextlib import suppress

import torch
from common.keeping import Arrays
from sagun import networks
from torch import Tensor, nn

import hesscope as hs
from driven.newton import Field

HISTORY = 50


class _ReachedError(Exception):
    """The gradient is small enough."""


def ends(field: Field, theta: Tensor, iterations: int, tolerance: float = 1e-8) -> Arrays:
    """Where each network of ReLU ends."""
    e = hs.ensemble.Ensemble(field.layers, "relu", theta)
    found = []
    for i in range(len(e)):
        model = e.member(i)
        descend(model, field, iterations, tolerance)
        found.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    there = torch.stack(found)
    return {
        "theta": there, "losses": field.losses(there), "gradient_norms": field.norms(there)
    }  # fmt: skip


def descend(model: nn.Module, field: Field, iterations: int, tolerance: float) -> int:
    """Changes the model; how many gradients that took. A line search that fails ends it."""
    loss_fn, num = networks.LOSSES[field.loss], 0
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=iterations, max_eval=3 * iterations, history_size=HISTORY,
        line_search_fn="strong_wolfe", tolerance_grad=0.0, tolerance_change=0.0,
    )  # fmt: skip

    def closure() -> Tensor:
        nonlocal num
        num += 1
        optimizer.zero_grad()
        loss = loss_fn(model(field.X), field.t)
        loss.backward()
        if torch.cat([p.grad.flatten() for p in model.parameters()]).norm() < tolerance:
            raise _ReachedError
        return loss

    with suppress(_ReachedError):
        optimizer.step(closure)
    return num

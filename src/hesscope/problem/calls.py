"""Calls the user's model and loss, and says what is wrong with what comes back, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hesscope.problem.data import Batch, describe
from hesscope.problem.point import Point

_USER_ERRORS = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError,
    ArithmeticError,
)  # fmt: skip


def call(function: Callable[[nn.Module, Any], Any], point: Point, batch: Batch) -> Any:
    """The user's code on one batch.

    Raises:
        ValueError: if it fails; the message describes the batch and the parameters.
    """
    try:
        return function(point.model, batch.content)
    except _USER_ERRORS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        msg = (
            f"the model or the loss fails on batch {batch.index} ({describe(batch.content)}) "
            f"with parameters in {point.dtype} on {point.device}: {type(error).__name__}: {error}"
        )
        raise ValueError(msg) from error


def check_outputs(outputs: Any) -> None:
    """Refuses outputs that have no rows.

    Raises:
        ValueError: if they are no floating tensor with a row per example.
    """
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.ndim < 1:
        msg = (
            f"the model's output is a {type(outputs).__name__}, not a floating tensor with "
            "one row per example; say which part of it the loss uses: "
            "forward=lambda model, inputs: model(inputs).logits."
        )
        raise ValueError(msg)


class NonFiniteLossError(RuntimeError):
    """The loss of a batch is NaN or infinite where derivatives of it are wanted."""


def check_finite(loss: Tensor, index: int) -> None:
    """Refuses a loss without derivatives.

    Raises:
        NonFiniteLossError: if it is NaN or infinite.
    """
    if not torch.isfinite(loss):
        msg = (
            f"the loss of batch {index} is {loss.item()}; a Hessian needs a finite loss. Look for "
            "NaN in the data or the parameters, log(0), or a run that has diverged."
        )
        raise NonFiniteLossError(msg)


def check_loss(loss: Any, index: int) -> None:
    """Refuses what is no scalar with a graph; whether it is finite is another question.

    Raises:
        ValueError: if it is no scalar tensor, or has no graph.
    """
    if not isinstance(loss, Tensor):
        msg = (
            f"the loss of batch {index} is a {type(loss).__name__}, not a tensor; return the "
            "tensor itself, without .item() or float()."
        )
        raise ValueError(msg)
    if loss.numel() != 1:
        msg = (
            f"the loss of batch {index} has shape {tuple(loss.shape)}, not one number; use "
            "reduction='mean', or take .mean() of it."
        )
        raise ValueError(msg)
    if loss.is_complex():
        msg = (
            f"the loss of batch {index} is complex ({loss.dtype}); take its real part or its "
            "absolute value."
        )
        raise ValueError(msg)
    if loss.grad_fn is None and not loss.requires_grad:
        msg = (
            f"the loss of batch {index} does not depend on the parameters through autograd (it "
            "has no grad_fn): look for .item(), .detach(), .numpy() or torch.no_grad() in the "
            "model or the loss."
        )
        raise ValueError(msg)

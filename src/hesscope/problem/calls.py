"""Calls the user's model and loss, and says what is wrong with what comes back, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hesscope.problem.contents import describe, tensors_in
from hesscope.problem.data import Batch
from hesscope.problem.point import Point
from hesscope.system.agreement import shared_error
from hesscope.system.memory import is_out_of_memory

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
        if is_out_of_memory(error):
            raise
        msg = (
            f"the model or the loss fails on batch {batch.index} ({describe(batch.content)}) "
            f"with parameters in {point.dtype} on {point.device}: {type(error).__name__}: {error}"
            f"{_cure(point, batch, str(error))}"
        )
        raise ValueError(msg) from error


def wants_gradients(error: ValueError) -> bool:
    """Whether the user's code has failed for it differentiates by what requires no gradient."""
    return "does not require grad" in str(error.__cause__)


def _cure(point: Point, batch: Batch, words: str) -> str:
    """What helps against the usual misfits of dtypes and devices, where torch complains of one."""
    tensors = tensors_in(batch.content)
    others = {str(t.dtype)[6:] for t in tensors if t.is_floating_point()} - {str(point.dtype)[6:]}
    if "expected target dtype" in words:
        return ". Class labels are whole numbers in int64: targets.long()."
    if others and any(mark in words for mark in ("same dtype", "scalar type", "dtype mismatch")):
        name = str(point.dtype)
        return f". The data is in {', '.join(sorted(others))}: bring it to {name}, x.to({name})."
    if "must be Tensor, not" in words:
        return (
            ". Say which part of what the model gives the loss compares: "
            "forward=lambda model, inputs: model(inputs).logits."
        )
    if "same device" in words:
        return (
            ". Batches are brought to the device of the parameters; what the model or the loss "
            "makes itself (torch.zeros(...)) wants device=x.device."
        )
    return ""


def versions_of(tensors: Sequence[Tensor]) -> list[int]:
    """How often each tensor has been written to; those of inference mode do not tell."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


def refuse_written(point: Point, leaves: Sequence[Tensor], versions: Sequence[int]) -> None:
    """Refuses a model that changes its parameters in place while it computes the loss.

    Embeddings with a largest norm touch their weights at every call, mostly without a change; that
    their gradient knows nothing of it is seen by `check_problem`.

    Raises:
        ValueError: if a parameter has been written to since it had these versions.
    """
    now = versions_of(leaves)
    if now == list(versions):
        return
    modules = dict(point.model.named_modules())
    for name, before, after in zip(point.layout.names, versions, now, strict=True):
        owner = modules.get(name.rpartition(".")[0])
        if before != after and getattr(owner, "max_norm", None) is None:
            msg = (
                f"the model writes into its parameter {name} in place while it computes the loss, "
                "which then is no function of the parameters. Models that rescale their weights "
                "for inference (RWKV) do so in evaluation mode only: measure with training=True, "
                "or switch it off (rescale_every=0). Else compute with a changed copy."
            )
            raise ValueError(msg)


@contextmanager
def explained() -> Iterator[None]:
    """Adds the usual cause and the cure to what torch says of tensors changed after their use.

    Raises:
        RuntimeError: if torch cannot differentiate the loss.
    """
    try:
        yield
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            if type(error) not in (RuntimeError, NotImplementedError):
                raise
            msg = f"torch cannot differentiate the loss: {error}"
            raise type(error)(msg) from error
        msg = (
            "the model or the loss writes in place into a tensor that its own gradient needs. The "
            "usual cause is a cache of states or keys, which some models keep in evaluation mode: "
            "use_cache=False in the batch or in model.config, or training=True. Else replace "
            f"in-place operations (x += y, x.mul_(2)) by x = x + y. torch says: {error}"
        )
        raise RuntimeError(msg) from error


def check_outputs(outputs: Any) -> None:
    """Refuses outputs that have no rows.

    Raises:
        ValueError: if they are no floating tensor with a row per example.
    """
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.ndim < 1:
        what = str(outputs.dtype) if isinstance(outputs, Tensor) else type(outputs).__name__
        if isinstance(outputs, Tensor) and outputs.is_complex():
            what += " (torch.view_as_real makes it real)"
        msg = (
            f"the model's output is a {what}, not a floating tensor with "
            "one row per example; say which part of it the loss uses: "
            "forward=lambda model, inputs: model(inputs).logits."
        )
        raise ValueError(msg)


@shared_error
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
    check_scalar(loss, index)
    if loss.grad_fn is None and not loss.requires_grad:
        msg = (
            f"the loss of batch {index} does not depend on the parameters through autograd (it "
            "has no grad_fn): look for .item(), .detach(), .numpy() or torch.no_grad() in the "
            "model or the loss."
        )
        raise ValueError(msg)


def check_scalar(loss: Any, index: int) -> None:
    """Refuses what is no scalar tensor.

    Raises:
        ValueError: if it is none, or complex.
    """
    if not isinstance(loss, Tensor):
        cure = "return the tensor itself, without .item() or float()"
        if loss is None:
            cure = "models give no loss where the batch holds nothing to compare with (labels)"
        elif getattr(loss, "loss", None) is not None:
            cure = "return its .loss"
        what = "None" if loss is None else f"a {type(loss).__name__}"
        msg = f"the loss of batch {index} is {what}, not a tensor; {cure}."
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

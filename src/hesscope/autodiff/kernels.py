"""Layers whose second derivatives torch computes slowly, replaced while a loss is built.

Convolutions, BatchNorm in evaluation mode, GELU and SiLU record the kernels of
`bilinear` and `activations`: the same loss and gradient, and a Hessian-vector product by short
formulas. What each one gains is listed in benchmarks/README.md. The model is not touched, and what
is not listed or is used in an unusual way is torch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hesscope.autodiff.activations import GELU, SILU, activation
from hesscope.autodiff.bilinear import Convolution, Normalisation, layer

Some = Tensor | None

_saving_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


class fast_second_derivatives(TorchFunctionMode):  # noqa: N801  used as a context manager
    """Inside, supported layers record these kernels; everything else, and odd uses, is stock."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Calls the replacement of `func` if there is one and it takes these arguments."""
        kwargs = kwargs or {}
        replacement = _REPLACEMENTS.get(func)
        if replacement is not None and not _transformed():
            result = replacement(*args, **kwargs)
            if result is not None:
                return result
        return func(*args, **kwargs)


def _convolution(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> Some:
    """conv1d, conv2d and conv3d of a batch; None for what stays stock (padding by name, ...)."""
    if not _plain(input, weight, bias) or input.ndim != weight.ndim or isinstance(padding, str):
        return None
    stride, padding, dilation = (_each(p, weight.ndim - 2) for p in (stride, padding, dilation))
    return layer(Convolution(stride, padding, dilation, groups), input, weight, bias)


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,  # noqa: ARG001  of no use in evaluation mode
    eps: float = 1e-5,
) -> Some:
    """BatchNorm in evaluation mode with weights; None for anything else."""
    if training or weight is None or not _plain(input, weight, bias, running_mean, running_var):
        return None
    if running_mean is None or running_mean.requires_grad or running_var.requires_grad:
        return None
    return layer(Normalisation(running_mean, running_var, eps), input, weight, bias)


def _gelu(input: Any, approximate: str = "none") -> Some:
    """GELU in its exact form."""
    if approximate != "none" or not _plain(input):
        return None
    return activation(GELU, input)


def _silu(input: Any, inplace: bool = False) -> Some:
    """SiLU that keeps its input."""
    return None if inplace or not _plain(input) else activation(SILU, input)


_REPLACEMENTS: dict[Any, Callable[..., Some]] = {
    torch.conv1d: _convolution,
    torch.conv2d: _convolution,
    torch.conv3d: _convolution,
    F.batch_norm: _batch_norm,
    F.gelu: _gelu,
    F.silu: _silu,
}


def _plain(*tensors: Any) -> bool:
    """Whether all are ordinary tensors of one dtype and device, and some need a gradient."""
    given = [tensor for tensor in tensors if tensor is not None]
    first = given[0]
    return (
        all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in given)
        and all(tensor.dtype == first.dtype and tensor.device == first.device for tensor in given)
        and first.is_floating_point()
        and first.layout == torch.strided
        and any(tensor.requires_grad for tensor in given)
    )


def _transformed() -> bool:
    """Whether this is inside torch.func, forward-mode differentiation or checkpointing.

    Checkpointing compares what forward and recomputation save, and recomputes where no mode is on.
    """
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or (_saving_hooks is not None and _saving_hooks(True) is not None)
    )


def _each(value: Any, dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else list(value) * (dims // len(value))

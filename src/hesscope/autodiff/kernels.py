"""Layers whose second derivatives torch computes slowly or wrongly, replaced as a loss is built.

Convolutions, BatchNorm in evaluation mode, LayerNorm, RMSNorm, GroupNorm, GELU, SiLU, softmax and
attention record kernels that are written beside this: the same loss and gradient, and a
Hessian-vector product by short formulas. What each one gains is listed in benchmarks/README.md.
What torch differentiates wrongly takes the form that `elementary` gives it. The model is not
touched, and what is not listed or is used in an unusual way is torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hesscope import rounding
from hesscope.autodiff.activations import GELU, SILU, activation
from hesscope.autodiff.arguments import full, plain
from hesscope.autodiff.attention import attention
from hesscope.autodiff.bilinear import Convolution, Normalisation, layer
from hesscope.autodiff.broken import (
    AFTER_FORWARD_MODE,
    FORWARD_OVER_REVERSE,
    BrokenNode,
    after_forward_mode,
    forward_over_reverse,
)
from hesscope.autodiff.composites import OPENED, opened
from hesscope.autodiff.elementary import ELEMENTARY, NORMALISATIONS
from hesscope.autodiff.group_norm import group_norm
from hesscope.autodiff.normalisations import LayerNorm, RMSNorm, RowKernels, normalised
from hesscope.autodiff.pending import SHAPES, Pending, pending
from hesscope.autodiff.recomputed import recomputes
from hesscope.autodiff.softmax import softmax
from hesscope.derivatives.activations import GELU_TANH

Some = Tensor | None


class fast_second_derivatives(TorchFunctionMode):  # noqa: N801  used as a context manager
    """Inside, supported layers record these kernels; everything else, and odd uses, is stock.

    Args:
        normalisations: also writes normalisations in elementary form: dearer, and right when the
            loss is made of derivatives. Those of torch.func and forward mode are seen by the call.
        forward_over_reverse: whether jvp(grad(...)) of torch.func is around the loss.
        heads: leaves the logits of a very wide last layer pending. For a scalar alone: pending
            ones must not be what comes out.
    """

    def __init__(
        self,
        *,
        normalisations: bool = False,
        forward_over_reverse: bool = False,
        heads: bool = False,
    ) -> None:
        super().__init__()
        self.normalisations, self.forward_over_reverse = normalisations, forward_over_reverse
        self.heads = heads
        self.pending = False  # whether logits were left pending
        self.differentiated = False  # whether the loss took derivatives itself
        self.wrong: BrokenNode | None = None  # a call that torch differentiates wrongly
        self.missed: set[str] = set()  # functions whose kernels did not take some arguments

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Calls the replacement of `func` if there is one and it takes these arguments."""
        kwargs = kwargs or {}
        if Pending in types and func not in SHAPES:
            with self:
                return Pending.__torch_function__(func, types, args, kwargs)
        if func in _WATCHED:
            self._note(func, args, kwargs)
            for replacement in self._replacements(func):
                result = replacement(*args, **kwargs)
                if result is not None:
                    return result
                if replacement is _KERNELS.get(func) and _differentiated(args, kwargs):
                    self.missed.add(func.__name__)
        if func in OPENED and set(types) <= {Tensor, torch.nn.Parameter}:
            with self:
                return opened(func)(*args, **kwargs)
        return func(*args, **kwargs)

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> None:
        if func in _GRADIENTS:
            self.differentiated = True
        elif func in AFTER_FORWARD_MODE and _forward_modes() > self.forward_over_reverse:
            self.wrong = after_forward_mode(func)
        elif self.forward_over_reverse and func in FORWARD_OVER_REVERSE:
            self.wrong = self.wrong or forward_over_reverse(func, args, kwargs)

    def _replacements(self, func: Any) -> Iterator[Callable[..., Some]]:
        """What may replace `func` here, the cheapest first."""
        if recomputes():
            return
        transforms = len(get_interpreter_stack() or ()), _forward_modes()
        written_out = self.normalisations and func in _NORMS
        if transforms == (0, 0) and func in _KERNELS and not written_out:
            yield _KERNELS[func]
        if transforms == (0, 0) and func is F.linear and self.heads:
            yield self._head
        if func in ELEMENTARY:
            yield ELEMENTARY[func]
        inside = transforms != ((2, 1) if self.forward_over_reverse else (0, 0))
        self.differentiated = self.differentiated or inside
        if func in NORMALISATIONS and (self.normalisations or inside):
            yield NORMALISATIONS[func]

    def _head(self, *args: Any, **kwargs: Any) -> Some:
        """The logits of a language model, pending."""
        logits = pending(*args, **kwargs)
        self.pending = self.pending or logits is not None
        return logits


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
    if not plain(input, weight, bias) or input.ndim != weight.ndim or isinstance(padding, str):
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
    if training or weight is None or not plain(input, weight, bias, running_mean, running_var):
        return None
    if running_mean is None or running_mean.requires_grad or running_var.requires_grad:
        return None
    return layer(Normalisation(running_mean, running_var, eps), input, weight, bias)


def _layer_norm(
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Some:
    """LayerNorm, with weight and bias, with a weight alone, or without."""
    if weight is None and bias is not None:
        return None
    return _normalised(LayerNorm(list(normalized_shape), eps), input, weight, bias)


def _rms_norm(
    input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None
) -> Some:
    """RMSNorm, with or without a weight."""
    eps = rounding.eps(input.dtype) if eps is None else eps
    return _normalised(RMSNorm(list(normalized_shape), eps), input, weight, None)


def _group_norm(
    input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Some:
    """GroupNorm, with weight and bias, with a weight alone, or without."""
    if (weight is None and bias is not None) or not plain(input, weight, bias):
        return None
    channels = input.shape[1] if input.ndim > 1 else 0
    right = all(t.shape == (channels,) for t in (weight, bias) if t is not None)
    whole = num_groups > 0 and channels % num_groups == 0 and input.numel() > 0
    if not (right and whole and full(input)):
        return None
    return group_norm(input, num_groups, weight, bias, eps)


def _normalised(kernels: RowKernels, input: Any, weight: Any, bias: Any) -> Some:
    shape = kernels.shape
    whole = list(input.shape[input.ndim - len(shape) :]) == shape and 0 not in shape
    right = all(list(t.shape) == shape for t in (weight, bias) if t is not None)
    if not (shape and whole and right and plain(input, weight, bias) and full(input)):
        return None
    return normalised(kernels, input, weight, bias)


def _gelu(input: Any, approximate: str = "none") -> Some:
    """GELU in its exact form and by tanh."""
    form = {"none": GELU, "tanh": GELU_TANH}.get(approximate)
    return None if form is None or not plain(input) else activation(form, input)


def _silu(input: Any, inplace: bool = False) -> Some:
    """SiLU that keeps its input."""
    return None if inplace or not plain(input) else activation(SILU, input)


def _softmax(input: Any, dim: Any = None, *_: Any, dtype: Any = None, **__: Any) -> Some:
    """Softmax over one dimension in the precision of its input."""
    if dim is None or not plain(input) or not full(input) or dtype not in (None, input.dtype):
        return None
    if not -input.ndim <= dim < input.ndim:
        return None
    return softmax(input, dim % input.ndim - input.ndim, False)


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Some:
    """Attention without dropout, with any mask that torch takes."""
    return attention(query, key, value, *args, **kwargs) if plain(query, key, value) else None


_KERNELS: dict[Any, Callable[..., Some]] = {
    torch.conv1d: _convolution,
    torch.conv2d: _convolution,
    torch.conv3d: _convolution,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.gelu: _gelu,
    F.silu: _silu,
    F.softmax: _softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.scaled_dot_product_attention: _attention,
}

_NORMS = {*NORMALISATIONS, F.group_norm}  # torch differentiates GroupNorm as often as asked
_GRADIENTS = {torch.autograd.grad, torch.autograd.backward, Tensor.backward}
_WATCHED = {
    *_GRADIENTS, *_KERNELS, *ELEMENTARY, *NORMALISATIONS, *AFTER_FORWARD_MODE,
    *FORWARD_OVER_REVERSE, F.linear,
}  # fmt: skip


def _differentiated(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a graph is recorded for a call with these arguments."""
    given = (*args, *kwargs.values())
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in given)


def _forward_modes() -> int:
    """How many forward-mode derivatives are being taken, by torch.func.jvp or dual numbers."""
    stack = get_interpreter_stack() or ()
    nested = sum(level.key() == TransformType.Jvp for level in stack)
    return max(nested, forward_ad._current_level + 1)


def _each(value: Any, dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else list(value) * (dims // len(value))

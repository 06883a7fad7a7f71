"""Operations whose derivatives torch gets wrong or does not have, written in elementary ones.

Each function computes what torch's own of that name does, from operations that autograd
differentiates rightly and as often as asked; None where the arguments are better left to torch.

torch 2.13 has no right second derivative of `_weight_norm` (30 to 50 % off), none at all of
`hardsigmoid`, of fused attention and of embeddings with a sparse gradient. The second derivatives
of LayerNorm, InstanceNorm and of BatchNorm in training mode are right, but cannot be
differentiated: they hold the statistics fixed, and third derivatives are 10 % to 30 times off, as
are second derivatives of forward-mode ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_interpreter_stack, is_functorch_wrapped_tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hesscope import rounding
from hesscope.autodiff.attention import long_attention

Some = Tensor | None
EMBEDDING_SPARSE = 6  # the place of `sparse` among the arguments of F.embedding


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """v g/‖v‖, with norms over all dimensions but one, or over all for dim=-1."""
    dims = list(range(v.ndim))
    if dim != -1:
        dims.remove(dim % v.ndim)
    return v * (g / v.square().sum(dims, keepdim=dim != -1).sqrt())


def attention(*args: Any, **kwargs: Any) -> Some:
    """Attention by torch's math kernel, where the model has switched to another inside ours.

    A long one by tiles, where forward mode alone goes through it.
    """
    if _forward_mode_alone(*args, *kwargs.values()):
        result = long_attention(*args, **kwargs)
        if result is not None:
            return result
    enabled = torch.backends.cuda
    fused = (
        enabled.flash_sdp_enabled()
        or enabled.mem_efficient_sdp_enabled()
        or enabled.cudnn_sdp_enabled()
    )
    if not fused:
        return None
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(*args, **kwargs)


def _forward_mode_alone(*arguments: Any) -> bool:
    """Whether dual numbers go through, and no gradient is taken of what comes out."""
    if forward_ad._current_level < 0 or get_interpreter_stack():
        return False
    return not any(isinstance(a, Tensor) and a.requires_grad for a in arguments)


def embedding(*args: Any, sparse: bool = False, **kwargs: Any) -> Some:
    """The rows of a weight, with a dense gradient: torch drops the graph of a sparse one."""
    if len(args) > EMBEDDING_SPARSE:
        args, sparse = args[:EMBEDDING_SPARSE], args[EMBEDDING_SPARSE]
    return F.embedding(*args, **kwargs) if sparse else None


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x + 3, 0), 6)/6."""
    result = F.relu6(input + 3) / 6
    return input.copy_(result) if inplace else result


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Some = None,
    bias: Some = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    """(x - mean)/√(var + ε) w + b, with mean and variance over the last dimensions."""
    dims = list(range(input.ndim - len(normalized_shape), input.ndim))
    return _affine(_standardised(input, dims, eps), weight, bias)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Some = None, eps: float | None = None
) -> Tensor:
    """x/√(mean x² + ε) w, with the mean over the last dimensions."""
    dims = list(range(input.ndim - len(normalized_shape), input.ndim))
    floor = rounding.eps(input.dtype) if eps is None else eps
    return _affine(input / (input.square().mean(dims, keepdim=True) + floor).sqrt(), weight, None)


def batch_norm(
    input: Tensor,
    running_mean: Some,
    running_var: Some,
    weight: Some = None,
    bias: Some = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean)/√(var + ε) w + b by channel, with the statistics of the batch or fixed ones."""
    if training:
        dims = [d for d in range(input.ndim) if d != 1]
        _follow(input, dims, running_mean, running_var, momentum)
        result = _standardised(input, dims, eps)
    else:
        assert running_mean is not None
        assert running_var is not None
        mean, var = _by_channel(running_mean, input), _by_channel(running_var, input)
        result = (input - mean) / (var + eps).sqrt()
    return _affine_by_channel(result, weight, bias)


def instance_norm(
    input: Tensor,
    running_mean: Some = None,
    running_var: Some = None,
    weight: Some = None,
    bias: Some = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """BatchNorm with statistics of each example's own channels."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = list(range(2, input.ndim))
    _follow(input, dims, running_mean, running_var, momentum)
    return _affine_by_channel(_standardised(input, dims, eps), weight, bias)


def _standardised(x: Tensor, dims: list[int], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt()


def _affine(x: Tensor, weight: Some, bias: Some) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _affine_by_channel(x: Tensor, weight: Some, bias: Some) -> Tensor:
    w, b = (None if t is None else _by_channel(t, x) for t in (weight, bias))
    return _affine(x, w, b)


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.ndim - 2))


def _follow(x: Tensor, dims: list[int], mean: Some, var: Some, momentum: float) -> None:
    """Moves running statistics towards those of the batch, as torch does.

    Not inside torch.func, which lets no one write to outer tensors; hesscope's are copies anyway.
    """
    if mean is None or var is None or is_functorch_wrapped_tensor(x):
        return
    with torch.no_grad():
        now, spread = x.detach().mean(dims), x.detach().var(dims)
        if now.ndim > 1:  # of each example: the running ones take their mean
            now, spread = now.mean(0), spread.mean(0)
        mean.lerp_(now.to(mean), momentum)
        var.lerp_(spread.to(var), momentum)


ELEMENTARY: dict[Any, Callable[..., Some]] = {
    torch._weight_norm: weight_norm,
    F.scaled_dot_product_attention: attention,
    F.hardsigmoid: hardsigmoid,
    F.embedding: embedding,
}

NORMALISATIONS: dict[Any, Callable[..., Some]] = {
    F.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    F.rms_norm: rms_norm,
    F.batch_norm: batch_norm,
    F.instance_norm: instance_norm,
}

"""Smooth activations with short second derivatives, for GELU, also in tanh form, and SiLU.

For y = f(x), entry by entry, with backward g f'(x), the cotangents are u f'(x) of g and u g f''(x)
of x. torch computes f' and f'' anew in every product, by chains of operations; here f'(x) and
g f''(x) are computed once per graph. (A closed form for ReLU, where f'' is zero, was measured and
gains nothing.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from hesscope.derivatives.activations import ACTIVATIONS, Activation

Some = Tensor | None


class _Activation(Function):
    """y = f(x), entry by entry, with f'(x) kept for all passes backwards."""

    @staticmethod
    def forward(ctx: Any, f: Activation, x: Tensor) -> Tensor:
        ctx.f = f
        ctx.save_for_backward(x, f.slope(x))
        return f.value(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Some, ...]:
        x, slope = ctx.saved_tensors
        return None, _backward(ctx.f, g, x, slope) if torch.is_grad_enabled() else g * slope


class _ActivationBackward(Function):
    """g f'(x), with g f''(x) kept for the products to come."""

    @staticmethod
    def forward(ctx: Any, f: Activation, g: Tensor, x: Tensor, slope: Tensor) -> Tensor:
        ctx.f = f
        ctx.save_for_backward(g, x, slope, _second(f, x).mul_(g))
        return g * slope

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Some, ...]:
        g, x, slope, curvature = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative: follow g and x
            return None, _backward(ctx.f, u, x, slope), u * g * _second(ctx.f, x), None
        return None, u * slope, u * curvature, None


def _second(f: Activation, x: Tensor) -> Tensor:
    assert f.second is not None  # only smooth ones come here
    return f.second(x)


GELU, SILU = ACTIVATIONS["gelu"], ACTIVATIONS["silu"]

activation: Callable[[Activation, Tensor], Tensor] = _Activation.apply
_backward: Callable[[Activation, Tensor, Tensor, Tensor], Tensor] = _ActivationBackward.apply

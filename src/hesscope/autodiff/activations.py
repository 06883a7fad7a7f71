"""Smooth activations with short second derivatives, for GELU, also in tanh form, and SiLU.

For y = f(x), entry by entry, with backward g f'(x), the cotangents are u f'(x) of g and u g f''(x)
of x. torch computes f'' anew in every product, by a chain of operations; here g f''(x) is computed
once per graph. (A closed form for ReLU, where f'' is zero, was measured and gains nothing.)
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
    """y = f(x), entry by entry."""

    @staticmethod
    def forward(ctx: Any, f: Activation, x: Tensor) -> Tensor:
        ctx.f = f
        ctx.save_for_backward(x)
        return f.value(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Some, ...]:
        (x,) = ctx.saved_tensors
        return None, (_backward if torch.is_grad_enabled() else _plain_backward)(ctx.f, g, x)


class _ActivationBackward(Function):
    """g f'(x), with g f''(x) kept for the products to come."""

    @staticmethod
    def forward(ctx: Any, f: Activation, g: Tensor, x: Tensor) -> Tensor:
        ctx.f = f
        ctx.save_for_backward(g, x, _second(f, x).mul_(g))
        return f.backward(g, x)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Some, ...]:
        g, x, curvature = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative: follow g and x
            return None, _backward(ctx.f, u, x), u * g * _second(ctx.f, x)
        return None, ctx.f.backward(u, x), u * curvature


def _second(f: Activation, x: Tensor) -> Tensor:
    assert f.second is not None  # only smooth ones come here
    return f.second(x)


def _plain_backward(f: Activation, g: Tensor, x: Tensor) -> Tensor:
    return f.backward(g, x)


GELU, SILU = ACTIVATIONS["gelu"], ACTIVATIONS["silu"]

activation: Callable[[Activation, Tensor], Tensor] = _Activation.apply
_backward: Callable[[Activation, Tensor, Tensor], Tensor] = _ActivationBackward.apply

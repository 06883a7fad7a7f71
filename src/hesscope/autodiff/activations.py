"""Smooth activations with short second derivatives: GELU and SiLU.

For y = f(x), entry by entry, with backward g f'(x), the cotangents are u f'(x) of g and u g f''(x)
of x. torch computes f'' anew in every product, by a chain of operations; here g f''(x) is computed
once per graph. (A closed form for ReLU, where f'' is zero, was measured and gains nothing.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.nn import functional as F

aten = torch.ops.aten
Some = Tensor | None


@dataclass(frozen=True)
class Smooth:
    """An activation f as torch computes it, (g, x) -> g f'(x), and f''(x)."""

    value: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]
    second: Callable[[Tensor], Tensor]


class _Activation(Function):
    """y = f(x), entry by entry."""

    @staticmethod
    def forward(ctx: Any, f: Smooth, x: Tensor) -> Tensor:
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
    def forward(ctx: Any, f: Smooth, g: Tensor, x: Tensor) -> Tensor:
        ctx.f = f
        ctx.save_for_backward(g, x, f.second(x).mul_(g))
        return f.backward(g, x)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Some, ...]:
        g, x, curvature = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative: follow g and x
            return None, _backward(ctx.f, u, x), u * g * ctx.f.second(x)
        return None, ctx.f.backward(u, x), u * curvature


def _plain_backward(f: Smooth, g: Tensor, x: Tensor) -> Tensor:
    return f.backward(g, x)


def _gelu_second(x: Tensor) -> Tensor:
    """(xΦ)'' = φ(x) (2 - x²), with φ and Φ the standard normal density and distribution."""
    square = x * x
    return torch.exp(square * -0.5) * (2 - square) / math.sqrt(2 * math.pi)


def _silu_second(x: Tensor) -> Tensor:
    """(xσ)'' = σ (1 - σ) (2 + x (1 - 2σ)), with σ the logistic function."""
    s = torch.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


GELU = Smooth(F.gelu, aten.gelu_backward, _gelu_second)
SILU = Smooth(F.silu, aten.silu_backward, _silu_second)

activation: Callable[[Smooth, Tensor], Tensor] = _Activation.apply
_backward: Callable[[Smooth, Tensor, Tensor], Tensor] = _ActivationBackward.apply

"""Softmax with a short second derivative.

For P = softmax(x) the backward is B(g, P) = P γ with γ = g - Σ P g, sums over one dimension. For
cotangents u of it and c of γ, with w = u - Σ P u,

    cotangent of g = P w + c - P Σ c,    of P = γ (w - Σ c),

where a cotangent of P that is constant along the dimension is left out: the way on from P to x
takes it to zero. So γ is computed once per graph, two arrays are kept, as by torch, and a product
takes six operations on whole arrays, that way on included, where torch takes eleven. There is a c,
and the formulas hold for it, in losses that are made of derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

aten = torch.ops.aten
Some = Tensor | None


class _Softmax(Function):
    """P = softmax(x); what has nothing but -inf is zero if `safe`, and NaN otherwise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, safe: bool) -> Tensor:
        P = torch._safe_softmax(x, dim) if safe else torch.softmax(x, dim)
        ctx.dim = dim
        ctx.save_for_backward(P)
        return P

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Some, ...]:
        (P,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _backward(g, P, ctx.dim)[0], None, None
        return aten._softmax_backward_data(g, P, ctx.dim, P.dtype), None, None


class _SoftmaxBackward(Function):
    """P γ, and γ, so that it is followed where it is differentiated again."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, P: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        gamma = g - _sum(P * g, dim)
        ctx.dim = dim
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(P, gamma)
        return P * gamma, gamma

    @staticmethod
    def backward(ctx: Any, u: Some, c: Some) -> tuple[Some, ...]:
        P, gamma = ctx.saved_tensors
        w = None if u is None else u - _sum(P * u, ctx.dim)
        if c is None:
            return (None, None, None) if w is None else (P * w, gamma * w, None)
        total = _sum(c, ctx.dim)
        cot_g = c - P * total
        if w is None:
            return cot_g, -gamma * total, None
        return cot_g + P * w, gamma * (w - total), None


def _sum(t: Tensor, dim: int) -> Tensor:
    return t.sum(dim, keepdim=True)


softmax: Callable[[Tensor, int, bool], Tensor] = _Softmax.apply
_backward: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] = _SoftmaxBackward.apply

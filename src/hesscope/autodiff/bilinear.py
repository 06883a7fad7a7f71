"""Layers that are linear in their input and in their weight, with short second derivatives.

torch differentiates the backward of a convolution or of BatchNorm by long chains of generic
operations. A layer y = F(x, w) + b that is linear in x and in w has the backward

    B(g, x, w) = (∂<g, F>/∂x, ∂<g, F>/∂w, Σ g),

which is linear in each argument too. So, for cotangents (u, ω, β) of its three results,

    cotangent of g = F(u, w) + F(x, ω) + β,    of (x, w) = the first two of B(g, u, ω),

by first-order kernels alone. This is the product rule, exact, and can be differentiated further.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

aten = torch.ops.aten
Some = Tensor | None


class LayerKernels(ABC):
    """The first-order kernels F and B of a layer that is linear in input and in weight."""

    @abstractmethod
    def forward(self, x: Tensor, w: Tensor, b: Some) -> Tensor:
        """F(x, w) + b."""

    @abstractmethod
    def backward(self, g: Tensor, x: Tensor, w: Tensor, mask: list[bool]) -> tuple[Some, ...]:
        """Those of B(g, x, w) that the mask asks for."""

    @abstractmethod
    def for_changes(self) -> LayerKernels:
        """The kernels for a change of x, where the layer is affine in x and not linear."""


@dataclass(frozen=True)
class Convolution(LayerKernels):
    """Convolution in one to three dimensions, with stride, padding, dilation and groups."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def forward(self, x: Tensor, w: Tensor, b: Some) -> Tensor:
        """F is the convolution of x with w."""
        return torch.convolution(
            x, w, b, self.stride, self.padding, self.dilation, False, [0], self.groups
        )

    def backward(self, g: Tensor, x: Tensor, w: Tensor, mask: list[bool]) -> tuple[Some, ...]:
        """B is the transposed convolution, the correlation, and the sum over places."""
        outputs: tuple[Some, ...] = aten.convolution_backward(
            g, x, w, [len(w)], self.stride, self.padding, self.dilation, False, [0],
            self.groups, mask,
        )  # fmt: skip
        return outputs

    def for_changes(self) -> Convolution:
        """The same: convolution is linear."""
        return self


@dataclass(frozen=True)
class Normalisation(LayerKernels):
    """BatchNorm with fixed statistics m and v, (x - m) w / √(v + ε) + b."""

    mean: Tensor
    variance: Tensor
    eps: float

    def forward(self, x: Tensor, w: Tensor, b: Some) -> Tensor:
        """F is (x - m) w / √(v + ε), channel by channel."""
        return torch.batch_norm(x, w, b, self.mean, self.variance, False, 0.0, self.eps, False)

    def backward(self, g: Tensor, x: Tensor, w: Tensor, mask: list[bool]) -> tuple[Some, ...]:
        """B is g w / √(v + ε), Σ g (x - m) / √(v + ε) and Σ g, channel by channel."""
        outputs: tuple[Some, ...] = aten.native_batch_norm_backward(
            g, x, w, self.mean, self.variance, None, None, False, self.eps, mask
        )
        return outputs

    def for_changes(self) -> Normalisation:
        """A change of x has no mean to subtract."""
        return Normalisation(torch.zeros_like(self.mean), self.variance, self.eps)


class _Layer(Function):
    """y = F(x, w) + b."""

    @staticmethod
    def forward(ctx: Any, kernels: LayerKernels, x: Tensor, w: Tensor, b: Some) -> Tensor:
        ctx.kernels = kernels
        ctx.save_for_backward(x, w)
        return kernels.forward(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Some, ...]:
        x, w = ctx.saved_tensors
        mask = list(ctx.needs_input_grad[1:])
        if not torch.is_grad_enabled():
            return (None, *ctx.kernels.backward(g, x, w, mask))
        return (None, *_backward(ctx.kernels, mask, g, x, w))


class _LayerBackward(Function):
    """(gx, gw, gb) = B(g, x, w), where the mask asks for them."""

    @staticmethod
    def forward(
        ctx: Any, kernels: LayerKernels, mask: list[bool], g: Tensor, x: Tensor, w: Tensor
    ) -> tuple[Some, ...]:
        ctx.kernels = kernels
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, w)
        return kernels.backward(g, x, w, mask)

    @staticmethod
    def backward(ctx: Any, u: Some, omega: Some, beta: Some) -> tuple[Some, ...]:
        g, x, w = ctx.saved_tensors
        needs_g, needs_x, needs_w = ctx.needs_input_grad[2:]
        kernels, changes = ctx.kernels, ctx.kernels.for_changes()
        cot_g = cot_x = cot_w = None
        if needs_g:
            cot_g = _sum_of(
                None if u is None else changes.forward(u, w, None),
                None if omega is None else kernels.forward(x, omega, beta),
                None if beta is None or omega is not None else _as_channels(beta, g),
            )
        mask = [needs_x and omega is not None, needs_w and u is not None, False]
        if any(mask):
            cot_x, cot_w, _ = changes.backward(
                g, x if u is None else u, w if omega is None else omega, mask
            )
        return None, None, cot_g, cot_x, cot_w


layer: Callable[[LayerKernels, Tensor, Tensor, Some], Tensor] = _Layer.apply
_backward: Callable[..., tuple[Some, ...]] = _LayerBackward.apply


def _sum_of(*terms: Some) -> Some:
    given = [term for term in terms if term is not None]
    return sum(given[1:], given[0]) if given else None


def _as_channels(b: Tensor, like: Tensor) -> Tensor:
    """b, (channels,), for every example and place of `like`, (examples, channels, ...)."""
    return b.view(-1, *[1] * (like.ndim - 2)).expand_as(like)

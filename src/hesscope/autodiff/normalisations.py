"""LayerNorm and RMSNorm with short second derivatives.

Row by row y = x̂ w + b, with x̂ = r (x - mean x) and r = 1/√(var x + ε). Since ∂x̂/∂x = r Π for

    Π h = h - mean h - x̂ mean(h x̂),

the backward is B(g, x, w) = (d, Σ g x̂, Σ g) with d = r Π(g w). For cotangents (u, ω, β) of its
three results, with A = r Π u,

    cotangent of g = A w + ω x̂ + β,    of w = Σ A g,
    of x = r Π(g ω) - r (mean(g w x̂) A + mean(u x̂) d + mean(u d) x̂),

exactly, for every ε, by the kernel of the first backward and sums over rows. What does not depend
on (u, ω, β) is computed once per graph. RMSNorm is the same without mean x and mean h.

Third derivatives, of losses that are made of derivatives, go through the elementary form: those of
torch's own LayerNorm hold the statistics fixed, and are wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from hesscope.autodiff import elementary
from hesscope.autodiff.thirds import by_elementary_form

aten = torch.ops.aten
Some = Tensor | None


@dataclass(frozen=True)
class RowKernels(ABC):
    """The first-order kernels of a normalisation over the last dimensions, of this shape."""

    shape: list[int]
    eps: float

    @abstractmethod
    def forward(self, x: Tensor, w: Some, b: Some) -> tuple[Tensor, Some, Tensor]:
        """y, the mean of each row if it is subtracted, and r."""

    @abstractmethod
    def backward(
        self, g: Tensor, row: Rows, w: Some, b: Some, mask: list[bool]
    ) -> tuple[Some, ...]:
        """Those of B(g, x, w) that the mask asks for."""

    @abstractmethod
    def slope(self, h: Tensor, row: Rows) -> Tensor:
        """r Π h."""

    @abstractmethod
    def elementary(self, x: Tensor, w: Some) -> Tensor:
        """x̂ w by operations that can be differentiated as often as asked."""


@dataclass(frozen=True)
class Rows:
    """The input of a normalisation with its statistics, and x̂ where it is at hand."""

    x: Tensor
    mean: Some
    r: Tensor
    hat: Some = None

    def standardised(self) -> Tensor:
        """x̂."""
        if self.hat is not None:
            return self.hat
        return (self.x if self.mean is None else self.x - self.mean) * self.r


class LayerNorm(RowKernels):
    """By the two kernels of torch."""

    def forward(self, x: Tensor, w: Some, b: Some) -> tuple[Tensor, Some, Tensor]:
        """Torch's own forward pass."""
        y, mean, r = torch.native_layer_norm(x, self.shape, w, b, self.eps)
        return y, mean, r

    def backward(
        self, g: Tensor, row: Rows, w: Some, b: Some, mask: list[bool]
    ) -> tuple[Some, ...]:
        """Torch's own backward pass."""
        outputs: tuple[Some, ...] = aten.native_layer_norm_backward(
            g, row.x, self.shape, row.mean, row.r, w, b, mask
        )
        return outputs

    def slope(self, h: Tensor, row: Rows) -> Tensor:
        """The backward pass without weights."""
        (slope, *_) = self.backward(h, row, None, None, [True, False, False])
        assert slope is not None
        return slope

    def elementary(self, x: Tensor, w: Some) -> Tensor:
        """With its own mean and variance."""
        return elementary.layer_norm(x, self.shape, w, None, self.eps)


class RMSNorm(RowKernels):
    """By elementwise operations: torch has no kernel for it on every device."""

    def forward(self, x: Tensor, w: Some, b: Some) -> tuple[Tensor, Some, Tensor]:  # noqa: ARG002
        """In the order of torch's own operations."""
        r = (_row_mean(x.square(), self.shape) + self.eps).rsqrt()
        y = x * r
        return y if w is None else y * w, None, r

    def backward(
        self,
        g: Tensor,
        row: Rows,
        w: Some,
        b: Some,  # noqa: ARG002
        mask: list[bool],
    ) -> tuple[Some, ...]:
        """By the formulas above."""
        row = replace(row, hat=row.standardised())
        return (
            self.slope(g if w is None else g * w, row) if mask[0] else None,
            (g * row.standardised()).sum_to_size(self.shape) if mask[1] else None,
            None,
        )

    def slope(self, h: Tensor, row: Rows) -> Tensor:
        """r (h - x̂ mean(h x̂))."""
        hat = row.standardised()
        return row.r * torch.addcmul(h, hat, _row_mean(h * hat, self.shape), value=-1)

    def elementary(self, x: Tensor, w: Some) -> Tensor:
        """With its own mean square."""
        return elementary.rms_norm(x, self.shape, w, self.eps)


class _Norm(Function):
    """y = x̂ w + b."""

    @staticmethod
    def forward(ctx: Any, kernels: RowKernels, x: Tensor, w: Some, b: Some) -> Tensor:
        y, mean, r = kernels.forward(x, w, b)
        ctx.kernels = kernels
        ctx.save_for_backward(x, w, b, mean, r)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Some, ...]:
        x, w, b, mean, r = ctx.saved_tensors
        mask = list(ctx.needs_input_grad[1:])
        if not torch.is_grad_enabled():
            return (None, *ctx.kernels.backward(g, Rows(x, mean, r), w, b, mask))
        return (None, *_backward(ctx.kernels, mask, g, x, w, b, mean, r))


class _NormBackward(Function):
    """(gx, gw, gb) = B(g, x, w), where the mask asks for them."""

    @staticmethod
    def forward(
        ctx: Any, kernels: RowKernels, mask: list[bool],
        g: Tensor, x: Tensor, w: Some, b: Some, mean: Some, r: Tensor,
    ) -> tuple[Some, ...]:  # fmt: skip
        hat = Rows(x, mean, r).standardised()
        outputs = kernels.backward(g, Rows(x, mean, r, hat), w, b, mask)
        shrink = scaled = None
        if mask[0]:
            shrink = _row_mean((g if w is None else g * w) * hat, kernels.shape) * r
            scaled = r * outputs[0]  # type: ignore[operator]  # the mask asks for it
        ctx.kernels = kernels
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, w, mean, r, hat, shrink, scaled)
        return outputs

    @staticmethod
    def backward(ctx: Any, u: Some, omega: Some, beta: Some) -> tuple[Some, ...]:
        g, x, w, mean, r, hat, shrink, scaled = ctx.saved_tensors
        kernels, row = ctx.kernels, Rows(x, mean, r, hat)
        _, _, needs_g, needs_x, needs_w, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # a third derivative
            of_g, *of_inputs = by_elementary_form(kernels.elementary, (x, w), g, (u, omega))
            if beta is not None:
                of_g = beta.expand_as(g) if of_g is None else of_g + beta
            return None, None, of_g, *of_inputs, None, None, None
        moved = None if u is None else kernels.slope(u, row)
        cot_g = _of_g(moved, omega, beta, w, hat) if needs_g else None
        cot_x = cot_w = None
        if needs_x:
            cot_x = _of_x(kernels, row, (u, omega, moved), g, (shrink, scaled))
        if needs_w and moved is not None:
            cot_w = (moved * g).sum_to_size(w.shape)
        return None, None, cot_g, cot_x, cot_w, None, None, None


def _of_g(moved: Some, omega: Some, beta: Some, w: Some, hat: Tensor) -> Some:
    """A w + ω x̂ + β, of which any part may be missing."""
    result = None if beta is None else beta.expand_as(hat)
    if omega is not None:
        result = omega * hat if result is None else torch.addcmul(result, omega, hat)
    if moved is None or w is None:
        return moved if result is None else result if moved is None else result + moved
    return moved * w if result is None else torch.addcmul(result, moved, w)


def _of_x(
    kernels: RowKernels, row: Rows, cotangents: tuple[Some, ...], g: Tensor, kept: tuple[Any, ...]
) -> Some:
    """The terms of r Π(g ω - s u) - mean(u x̂) r d - mean(u r d) x̂ that there are.

    `shrink` is s = r mean(g w x̂), `scaled` is r d.
    """
    (u, omega, moved), (shrink, scaled) = cotangents, kept
    if u is None or moved is None:
        return None if omega is None else kernels.slope(g * omega, row)
    if omega is None:
        result = -shrink * moved
    else:
        result = kernels.slope(torch.addcmul(g * omega, shrink, u, value=-1), row)
    hat = row.standardised()
    result = torch.addcmul(result, _row_mean(u * hat, kernels.shape), scaled, value=-1)
    return torch.addcmul(result, _row_mean(u * scaled, kernels.shape), hat, value=-1)


def _row_mean(t: Tensor, shape: list[int]) -> Tensor:
    return t.mean(list(range(t.ndim - len(shape), t.ndim)), keepdim=True)


normalised: Callable[[RowKernels, Tensor, Some, Some], Tensor] = _Norm.apply
_backward: Callable[..., tuple[Some, ...]] = _NormBackward.apply

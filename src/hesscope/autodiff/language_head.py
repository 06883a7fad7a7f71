"""Cross-entropy of the logits h Wᵀ without a matrix of all items by all classes.

For an item with weight w and class y, with P the softmax of its logits, the loss is
w (log Σ exp z - z_y), and with g its cotangent the first backward is

    G = g w (P - e_y),    (dh, dW) = (G W, Gᵀ h).

For cotangents (u, v) of its results, with Z = u Wᵀ + h vᵀ and S = g w P (Z - Σ P Z), those of its
arguments are

    of h: G v + S W,    of W: Gᵀ u + Sᵀ h,    of g: Σ w (Σ P Z - Z_y),

for some items at a time. h, W and the logarithms of the sums are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from hesscope.autodiff.thirds import by_elementary_form

Some = Tensor | None
ENTRIES = {"cpu": 2**23}  # of the matrix at a time: 32 MB in single precision
MANY = 2**26  # the same elsewhere


def head_loss(h: Tensor, W: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Σ w (log Σ exp z - z_y) for z = h Wᵀ, h (N, d), W (C, d), y and w (N,)."""
    return _loss(h, W, y, w)


class _Loss(Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, W: Tensor, y: Tensor, w: Tensor) -> Tensor:
        logs, total = torch.empty_like(w), w.new_zeros(())
        for items in _cut(h, W):
            z = h[items] @ W.mT
            logs[items] = torch.logsumexp(z, 1)
            total += ((logs[items] - _at(z, y[items])) * w[items]).sum()
        ctx.save_for_backward(h, W, y, w, logs)
        return total

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Some, ...]:
        form = _backward if torch.is_grad_enabled() else _first
        return *form(g, *ctx.saved_tensors), None, None


class _LossBackward(Function):
    """(dh, dW)."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, h: Tensor, W: Tensor, y: Tensor, w: Tensor, logs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(g, h, W, y, w, logs)
        return _first(g, h, W, y, w, logs)

    @staticmethod
    def backward(ctx: Any, u: Tensor, v: Tensor) -> tuple[Some, ...]:
        g, h, W, y, w, logs = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative

            def whole(h: Tensor, W: Tensor) -> Tensor:
                z = h @ W.mT
                return ((torch.logsumexp(z, 1) - _at(z, y)) * w).sum()

            return *by_elementary_form(whole, (h, W), g, (u, v)), None, None, None
        return *_second(g, h, W, y, w, logs, u, v), None, None, None


def _first(
    g: Tensor, h: Tensor, W: Tensor, y: Tensor, w: Tensor, logs: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of g times the loss in h and W."""
    dh, dW = torch.empty_like(h), torch.zeros_like(W)
    for items in _cut(h, W):
        P = _softmax(h, W, logs, items)
        G = _residual(P, y[items], g * w[items])
        torch.mm(G, W, out=dh[items])
        dW.addmm_(G.mT, h[items])
    return dh, dW


def _second(
    g: Tensor, h: Tensor, W: Tensor, y: Tensor, w: Tensor, logs: Tensor, u: Tensor, v: Tensor
) -> tuple[Tensor, ...]:
    """The cotangents of g, h and W."""
    cot_g, cot_h, cot_W = torch.zeros_like(g), torch.empty_like(h), torch.zeros_like(W)
    for items in _cut(h, W):
        P, labels, scale = _softmax(h, W, logs, items), y[items], w[items]
        Z = (u[items] @ W.mT).addmm_(h[items], v.mT)
        mean = (P * Z).sum(1, keepdim=True)
        cot_g += ((mean[:, 0] - _at(Z, labels)) * scale).sum()
        scale = g * scale
        S = Z.sub_(mean).mul_(P).mul_(scale[:, None])
        G = _residual(P, labels, scale)
        cot_h[items] = (G @ v).addmm_(S, W)
        cot_W.addmm_(G.mT, u[items]).addmm_(S.mT, h[items])
    return cot_g, cot_h, cot_W


def _cut(h: Tensor, W: Tensor) -> Iterator[slice]:
    """Items whose logits are in memory at a time."""
    rows = max(1, ENTRIES.get(h.device.type, MANY) // len(W))
    return (slice(a, a + rows) for a in range(0, len(h), rows))


def _softmax(h: Tensor, W: Tensor, logs: Tensor, items: slice) -> Tensor:
    return (h[items] @ W.mT).sub_(logs[items, None]).exp_()


def _residual(P: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """scale (P - e_y), in the place of P."""
    return P.mul_(scale[:, None]).scatter_add_(1, y[:, None], -scale[:, None])


def _at(z: Tensor, y: Tensor) -> Tensor:
    return z.gather(1, y[:, None])[:, 0]


_loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = _Loss.apply
_backward: Callable[..., tuple[Tensor, ...]] = _LossBackward.apply

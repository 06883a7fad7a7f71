"""Attention without a matrix of all queries by all keys, of which some rows are computed at a time.

For the rows P of the softmax of some queries, with L the logarithms of their sums, so that
P = exp(s Q Kᵀ + M - L), and Y = P V, the first backward is

    D = P (G Vᵀ - Σ G Y),    (dQ, dK, dV) = (s D K, s Dᵀ Q, Pᵀ G).

For cotangents (u, v, w) of its results, with U = s (u Kᵀ + Q vᵀ), E = P (G wᵀ), W = U - Σ P U and
T = W D + E - P Σ (U D + E), sums by row, those of its arguments are

    of G: P w + P W V,    of Q: s (D v + T K),    of K: s (Dᵀ u + Tᵀ Q),    of V: (P W)ᵀ G,

Y and L taken as functions of Q, K and V. (Rows in tiles, recomputed from L: Dao et al. 2022,
FlashAttention, for first derivatives.) Q, K, V, Y and L are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from hesscope.autodiff.thirds import by_elementary_form
from hesscope.autodiff.tiles import Tiling

Some = Tensor | None
Whole = Callable[[Tensor, Tensor, Tensor], Tensor]


class _Attention(Function):
    """Y, for q (groups, heads, queries, d), k and v (groups, keys, d or e).

    `whole` is the same in one piece, for third derivatives.
    """

    @staticmethod
    def forward(ctx: Any, cut: Tiling, whole: Whole, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        Y, L = q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(*q.shape[:-1], 1)
        for tile in cut.tiles(q, k):
            P, logarithms = cut.logarithms(q, k, tile)
            tile.put(Y, torch.bmm(P, tile.columns(v)))
            tile.put(L, logarithms)
        ctx.cut, ctx.whole = cut, whole
        ctx.save_for_backward(q, k, v, Y, L)
        ctx.save_for_forward(q, k, v, L)
        return Y

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Some, ...]:
        q, k, v, Y, L = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, *_backward(ctx.cut, ctx.whole, G, q, k, v, Y, L)
        return None, None, *_first(ctx.cut, G, q, k, v, Y, L)

    @staticmethod
    def jvp(ctx: Any, *tangents: Some) -> Tensor:
        """(P (X - Σ P X)) V + P v', with X = s (q' Kᵀ + Q k'ᵀ)."""
        q, k, v, L = ctx.saved_tensors
        cut = ctx.cut
        dq, dk, dv = (
            torch.zeros_like(t) if d is None else d
            for d, t in zip(tangents[2:], (q, k, v), strict=True)
        )
        result = q.new_empty(*q.shape[:-1], v.shape[-1])
        for tile in cut.tiles(q, k):
            P = cut.weights(q, k, L, tile)
            X = _change(cut, tile, (q, k), (dq, dk))
            X = P * (X - (P * X).sum(-1, keepdim=True))
            tile.put(result, torch.bmm(X, tile.columns(v)).baddbmm_(P, tile.columns(dv)))
        return result


class _AttentionBackward(Function):
    """(dQ, dK, dV)."""

    @staticmethod
    def forward(
        ctx: Any, cut: Tiling, whole: Whole,
        G: Tensor, q: Tensor, k: Tensor, v: Tensor, Y: Tensor, L: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        ctx.cut, ctx.whole = cut, whole
        ctx.save_for_backward(G, q, k, v, Y, L)
        return _first(cut, G, q, k, v, Y, L)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Some, ...]:
        G, q, k, v, Y, L = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative
            found = by_elementary_form(ctx.whole, (q, k, v), G, cotangents)
        else:
            found = list(_second(ctx.cut, (G, q, k, v, Y, L), *cotangents))
        return None, None, *found, None, None


def _first(
    cut: Tiling, G: Tensor, q: Tensor, k: Tensor, v: Tensor, Y: Tensor, L: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of <G, Y> in Q, K and V."""
    dq, dk, dv = G.new_empty(q.shape), G.new_zeros(k.shape), G.new_zeros(v.shape)
    inner = (G * Y).sum(-1, keepdim=True)
    for tile in cut.tiles(q, k):
        keys, rows = tile.columns(k), tile.rows(G)
        P = cut.weights(q, k, L, tile)
        D = torch.bmm(rows, tile.columns(v).mT).sub_(tile.rows(inner)).mul_(P)
        tile.put(dq, torch.bmm(D, keys).mul_(cut.scale))
        tile.columns(dk).baddbmm_(D.mT, tile.rows(q), alpha=cut.scale)
        tile.columns(dv).baddbmm_(P.mT, rows)
    return dq, dk, dv


def _second(
    cut: Tiling, saved: tuple[Tensor, ...], u: Tensor, v_: Tensor, w: Tensor
) -> tuple[Tensor, ...]:
    """The cotangents of G, Q, K and V."""
    G, q, k, v, Y, L = saved
    cot_g, cot_q = u.new_empty(G.shape), torch.empty_like(u)
    cot_k, cot_v = torch.zeros_like(v_), torch.zeros_like(w)
    inner = (G * Y).sum(-1, keepdim=True)
    for tile in cut.tiles(q, k):
        rows, values = tile.rows(G), tile.columns(v)
        P = cut.weights(q, k, L, tile)
        D = torch.bmm(rows, values.mT).sub_(tile.rows(inner)).mul_(P)
        E = torch.bmm(rows, tile.columns(w).mT).mul_(P)
        U = _change(cut, tile, (q, k), (u, v_))
        total = torch.addcmul(E, U, D).sum(-1, keepdim=True)
        W = U.sub_((P * U).sum(-1, keepdim=True))
        T = E.addcmul_(W, D).addcmul_(P, total, value=-1)
        tile.put(cot_q, _product(D, tile.columns(v_), T, tile.columns(k)).mul_(cut.scale))
        tile.columns(cot_k).baddbmm_(D.mT, tile.rows(u), alpha=cut.scale)
        tile.columns(cot_k).baddbmm_(T.mT, tile.rows(q), alpha=cut.scale)
        PW = W.mul_(P)
        tile.put(cot_g, _product(P, tile.columns(w), PW, values))
        tile.columns(cot_v).baddbmm_(PW.mT, rows)
    return cot_g, cot_q, cot_k, cot_v


def _change(
    cut: Tiling, tile: Any, at: tuple[Tensor, Tensor], along: tuple[Tensor, Tensor]
) -> Tensor:
    """s (u Kᵀ + Q vᵀ) in a tile."""
    (q, k), (u, v) = at, along
    first = torch.bmm(tile.rows(u) * cut.scale, tile.columns(k).mT)
    return first.baddbmm_(tile.rows(q) * cut.scale, tile.columns(v).mT)


def _product(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """a x + b y."""
    return torch.bmm(a, x).baddbmm_(b, y)


tiled: Callable[[Tiling, Whole, Tensor, Tensor, Tensor], Tensor] = _Attention.apply
_backward: Callable[..., tuple[Tensor, ...]] = _AttentionBackward.apply

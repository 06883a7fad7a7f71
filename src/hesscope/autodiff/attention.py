"""Scaled dot-product attention, softmax(s Q Kᵀ + M) V, from two products and a short softmax.

torch's own kernels for it have no second derivative, or a long one. Heads that share keys and
values (grouped queries) become further rows of queries, so that no keys are repeated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesscope.autodiff.softmax import softmax

Some = Tensor | None


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Some, causal: bool, scale: float) -> Tensor:
    """The values of each query, (..., h, t, e), for q (..., h, t, d), k and v (..., g, s, d or e).

    The h heads of queries belong to g heads of keys, h/g neighbours to each. A mask says which keys
    are seen, or is added; what sees no key is zero, as in torch. Causal: query i sees keys 0 to i.
    """
    t, s = q.shape[-2], k.shape[-2]
    grouped = k.shape[:-2]
    rows = q.shape[:-1].numel() // max(1, grouped.numel())
    flat = (q * scale).reshape(-1, rows, q.shape[-1])
    keys, values = k.reshape(-1, s, k.shape[-1]), v.reshape(-1, s, v.shape[-1])
    scores = torch.bmm(flat, keys.mT)
    bias = _bias(mask, causal, (t, s), q)
    if bias is not None:
        scores = scores.view(*q.shape[:-1], s) + bias
    P = softmax(scores, -1, mask is not None).view(-1, rows, s)
    return torch.bmm(P, values).view(*q.shape[:-1], v.shape[-1])


def _bias(mask: Some, causal: bool, shape: tuple[int, int], like: Tensor) -> Some:
    """What is added to the scores: -inf where a query does not see a key."""
    if causal:
        bias = torch.full(shape, -math.inf, dtype=like.dtype, device=like.device)
        return bias.triu_(1)
    if mask is not None and mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(~mask, -math.inf)
    return mask

"""Scaled dot-product attention, softmax(s Q Kᵀ + M) V, from two products and a short softmax.

torch's own kernels for it have no second derivative, or a long one. Heads that share keys and
values (grouped queries) become further rows of queries, so that no keys are repeated. Where the
matrix of all queries by all keys is large, some rows of it are computed at a time and none is kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hesscope.autodiff.arguments import full, ordinary
from hesscope.autodiff.softmax import softmax
from hesscope.autodiff.tiled_attention import tiled
from hesscope.autodiff.tiles import Tiling

Some = Tensor | None
LONG = 2**18  # pairs of a query and a key, in one head: from there tiles take no more time
LARGE = 2**26  # the same in all heads and examples


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Some:
    """What torch's function gives, of batches of one shape without dropout; None for others."""
    if not _fits(query, key, value, attn_mask, enable_gqa) or dropout_p:
        return None
    if is_causal and attn_mask is not None:
        return None
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    form = in_tiles if is_long(query, key, attn_mask) else at_once
    return form(query, key, value, attn_mask, is_causal, scale)


def long_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any
) -> Some:
    """The same where it is computed in tiles; otherwise None."""
    if not (_fits(query, key, value, attn_mask, True) and is_long(query, key, attn_mask)):
        return None
    return attention(query, key, value, attn_mask, *args, **kwargs)


def is_long(query: Tensor, key: Tensor, mask: Some) -> bool:
    """Whether no matrix of all queries by all keys is to be kept, and none has to be."""
    if query.ndim != 4 or (mask is not None and mask.requires_grad):
        return False
    pairs = query.shape[2] * key.shape[-2]
    return pairs >= LONG or query.shape[:2].numel() * pairs >= LARGE


def at_once(q: Tensor, k: Tensor, v: Tensor, mask: Some, causal: bool, scale: float) -> Tensor:
    """The values of each query, (..., h, t, e), for q (..., h, t, d), k and v (..., g, s, d or e).

    The h heads of queries belong to g heads of keys, h/g neighbours to each. A mask says which keys
    are seen, or is added; what sees no key is zero, as in torch. Causal: query i sees keys 0 to i.
    """
    t, s = q.shape[-2], k.shape[-2]
    grouped = k.shape[:-2]
    rows = q.shape[:-1].numel() // grouped.numel()
    flat = (q * scale).reshape(-1, rows, q.shape[-1])
    keys, values = k.reshape(-1, s, k.shape[-1]), v.reshape(-1, s, v.shape[-1])
    scores = torch.bmm(flat, keys.mT)
    bias = _bias(mask, causal, (t, s), q)
    if bias is not None:
        scores = scores.view(*q.shape[:-1], s) + bias
    P = softmax(scores, -1, mask is not None).view(-1, rows, s)
    return torch.bmm(P, values).view(*q.shape[:-1], v.shape[-1])


def in_tiles(q: Tensor, k: Tensor, v: Tensor, mask: Some, causal: bool, scale: float) -> Tensor:
    """The same of q (examples, h, t, d), k and v (examples, g, s, d or e), some rows at a time."""
    examples, groups, s, _ = k.shape
    heads = q.shape[1] // groups
    if mask is not None:
        mask = mask.view(*[1] * (4 - mask.ndim), *mask.shape)
        mask = mask.unsqueeze(1) if mask.shape[1] == 1 else mask.unflatten(1, (groups, heads))

    def whole(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """In one piece, for third derivatives."""
        seen = None if mask is None else mask.expand(examples, groups, *mask.shape[2:])
        rows = None if seen is None else seen.flatten(0, 1)
        return at_once(q, k.unsqueeze(1), v.unsqueeze(1), rows, causal, scale)

    flat = q.reshape(examples * groups, heads, *q.shape[2:])
    keys, values = k.reshape(-1, s, k.shape[-1]), v.reshape(-1, s, v.shape[-1])
    out = tiled(Tiling(groups, scale, causal, mask), whole, flat, keys, values)
    return out.view(*q.shape[:-1], v.shape[-1])


def _fits(q: Any, k: Any, v: Any, mask: Any, grouped: bool) -> bool:
    return ordinary(q, k, v) and full(q) and _heads_fit(q, k, v, grouped) and _mask_fits(mask, q, k)


def _heads_fit(q: Tensor, k: Tensor, v: Tensor, grouped: bool) -> bool:
    """Whether queries, keys and values are batches of the same shape, but for groups of heads."""
    if q.ndim < 3 or 0 in (*q.shape, *k.shape, *v.shape) or k.shape[:-1] != v.shape[:-1]:
        return False
    if q.shape[-1] != k.shape[-1]:
        return False
    if q.shape[:-2] == k.shape[:-2]:
        return True
    if q.ndim != k.ndim or q.shape[:-3] != k.shape[:-3]:
        return False
    return k.shape[-3] == 1 or (grouped and q.shape[-3] % k.shape[-3] == 0)


def _mask_fits(mask: Any, q: Tensor, k: Tensor) -> bool:
    """Whether there is no mask, or one of a right kind that can be expanded to the scores."""
    if mask is None:
        return True
    if type(mask) not in (Tensor, torch.nn.Parameter) or mask.device != q.device:
        return False
    pairs = (*q.shape[:-1], k.shape[-2])
    sizes = zip(reversed(mask.shape), reversed(pairs), strict=False)
    right = mask.dtype in (torch.bool, q.dtype) and mask.layout == torch.strided
    return right and mask.ndim <= len(pairs) and all(a in (1, b) for a, b in sizes)


def _bias(mask: Some, causal: bool, shape: tuple[int, int], like: Tensor) -> Some:
    """What is added to the scores: -inf where a query does not see a key."""
    if causal:
        bias = torch.full(shape, -math.inf, dtype=like.dtype, device=like.device)
        return bias.triu_(1)
    if mask is not None and mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(~mask, -math.inf)
    return mask

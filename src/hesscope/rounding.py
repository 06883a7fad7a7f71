"""What rounding does, in named formulas: the one home of every multiple of eps."""

from __future__ import annotations

import math

import torch


def eps(dtype: torch.dtype) -> float:
    """The distance from 1 to the next number; one operation is off by at most half of it."""
    return float(torch.finfo(dtype).eps)


def underflow(dtype: torch.dtype, terms: int) -> float:
    """What a sum of so many products may lose where they leave the range of normal numbers.

    A product below `tiny` is rounded to a multiple of tiny·eps, or to zero where hardware flushes
    subnormal numbers: off by up to tiny either way, whatever its own size.
    """
    return terms * float(torch.finfo(dtype).tiny)


def product_check(dtype: torch.dtype, n: int) -> float:
    """Relative error of a product above which an operator is at fault, not rounding.

    A product rounds in each of its passes over data and layers; a hundred roundings of that kind
    leave 10·eps, and norms of n random errors grow as √n: 10·eps·√n, at least that of n = 100.
    """
    return 100 * eps(dtype) * math.sqrt(max(n, 100)) / 10

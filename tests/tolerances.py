"""Where the tolerances of the tests come from: rounding errors, and binomial limits on misses."""

from __future__ import annotations

import math

import torch


def rounding(dtype: torch.dtype, n: int, size: float) -> float:
    """eps·n·‖A‖: above what backward stable algorithms on an n x n matrix of norm `size` do."""
    return torch.finfo(dtype).eps * n * size


def most_misses(runs: int, probability: float, level: float = 1e-3) -> int:
    """The number of misses in independent runs that is exceeded with probability <= level."""
    below, term, misses = 0.0, (1 - probability) ** runs, 0
    while below + term < 1 - level:
        below += term
        term *= (runs - misses) / (misses + 1) * probability / (1 - probability)
        misses += 1
    return misses


def standard_error(runs: int, probability: float) -> float:
    """Of the share of misses in independent runs."""
    return math.sqrt(probability * (1 - probability) / runs)

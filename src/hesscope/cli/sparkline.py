"""A curve in one line of text."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesscope.results.history import Series

BLOCKS = "▁▂▃▄▅▆▇█"
WIDE = 10  # ratio of the largest value to the smallest from which heights are logarithmic


def sparkline(
    series: Series, width: int, span: tuple[int, int], *, reach: tuple[float, float] | None = None
) -> str:
    """The values over the steps of a span, the largest in each column, so that no spike is lost.

    A column in which nothing was measured goes on with the one before. Heights fill the range of
    the values, logarithmic where that is a factor of 10, or the `reach` (low, high).

    >>> series = Series(torch.tensor([0, 1, 2, 3]), torch.tensor([0.0, 1.0, 7.0, 2.0]))
    >>> sparkline(series, 8, (0, 3)), sparkline(series, 4, (0, 7)), sparkline(series, 4, (0, 3))
    ('▁▁▂▂██▃▃', '▂█  ', '▁▂█▃')
    """
    known = series.finite()
    if not len(known):
        return " " * width
    columns = _columns(known, width, span)
    low, high = reach or (float(known.values.min()), float(known.values.max()))
    if reach is None and is_wide(low, high):
        columns, low, high = columns.log(), math.log(low), math.log(high)
    shares = (columns - low) / (high - low) if high > low else columns * 0 + 0.5
    return "".join(_block(share) for share in shares.clamp(0, 1).tolist())


def is_wide(low: float, high: float) -> bool:
    """Whether values from low to high are drawn on a logarithmic scale."""
    return low > 0 and high > WIDE * low


def _block(share: float) -> str:
    return " " if math.isnan(share) else BLOCKS[round(share * (len(BLOCKS) - 1))]


def _columns(known: Series, width: int, span: tuple[int, int]) -> Tensor:
    """(width,) the largest value of each column; NaN before the first and after the last."""
    first, last = span
    per_step = width / (last - first + 1)
    column = ((known.steps - first) * per_step).long().clamp(0, width - 1)
    largest = torch.full((width,), -torch.inf, dtype=torch.float64)
    largest.scatter_reduce_(0, column, known.values.double(), "amax")
    heights = largest.tolist()
    end = max(int(column[-1]) + 1, min(width, int((int(known.steps[-1]) + 1 - first) * per_step)))
    for i in range(1, end):
        if heights[i] == -torch.inf:
            heights[i] = heights[i - 1]
    kept = [torch.nan if x == -torch.inf else x for x in heights]
    return torch.tensor(kept, dtype=torch.float64)

"""Claims: what a text says, what was measured, and whether that bears it out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

YES, PARTLY, NO, UNDECIDED = "yes", "in part", "no", "undecided"


@dataclass(frozen=True)
class Claim:
    """One row of a table of claims.

    `holds` is YES, PARTLY, NO, UNDECIDED or words that begin with "only when".
    """

    claim: str
    measured: str
    holds: str
    statement: str = ""  # keys of papers/statements.toml that it answers, by commas
    tried: tuple[str, ...] = ()  # of a NO: settings in which the claim had its best chance


def spread(values: Tensor) -> str:
    """Median and range, "0.31 [0.2, 0.4]"; a single value alone. Infinite ones are values too."""
    values = torch.as_tensor(values).double().flatten().sort().values
    low, high = float(values[0]), float(values[-1])
    middle = float(values[(len(values) - 1) // 2] / 2 + values[len(values) // 2] / 2)
    if low == high:
        return number(middle)
    return f"{number(middle)} [{number(low)}, {number(high)}]"


def number(value: float) -> str:
    """Three digits; thousands in full."""
    return f"{value:,.0f}" if 1_000 <= abs(value) < 1e6 else f"{value:.3g}"


def verdict(always: bool, typically: bool) -> str:
    """YES, PARTLY or NO."""
    return YES if always else PARTLY if typically else NO


def interval(values: Tensor, level: float = 0.05) -> tuple[float, float]:
    """The mean over seeds and the half-width of its interval (Student's t), 95 % by default."""
    values = values[values.isfinite()]
    if len(values) < 2:
        return (float(values.mean()) if len(values) else math.nan), math.nan
    half = float(stdtrit(len(values) - 1, 1 - level / 2)) * float(values.std()) / len(values) ** 0.5
    return float(values.mean()), half

"""Robust statistics of a series: medians, Theil-Sen slopes and Kendall's tau."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hesscope.results.history import History

WIDTH = 5  # checks of a running median: up to two wild ones in it do not move it
PAIRED = 200  # points of which all pairs are compared; longer series are thinned to so many
SHORTEST = 5  # checks from which on a trend is one


@dataclass(frozen=True)
class Trend:
    """How a quantity went over some checks."""

    first: float  # the median of the first third
    last: float  # and of the last
    middle: float  # and of all
    tau: float  # Kendall's: 1 if it only rises, -1 if it only falls
    change: float  # the Theil-Sen slope times the steps from the first check to the last

    @property
    def ratio(self) -> float:
        """last/first; infinite from nothing, or less, to something."""
        return self.last / self.first if self.first > 0 else math.inf


def together(history: History, *keys: str) -> tuple[Tensor, ...]:
    """The steps at which all of these are known and finite, and their values, (m,) each.

    >>> history = History.of({"loss": {0: 2.0, 1: 1.0}, "lambda_max": {1: 3.0, 2: 4.0}})
    >>> [x.tolist() for x in together(history, "loss", "lambda_max")]
    [[1], [1.0], [3.0]]
    """
    found = [history.get(key).finite() for key in keys]
    steps = found[0].steps
    for series in found[1:]:
        steps = steps[torch.isin(steps, series.steps)]
    return steps, *(s.values[torch.searchsorted(s.steps, steps)] for s in found)


def smooth(values: Tensor, width: int = WIDTH) -> Tensor:
    """The running median, of fewer values at both ends.

    >>> smooth(torch.tensor([1.0, 1.0, 9.0, 1.0, 1.0])).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    around = torch.full((width // 2,), math.nan, dtype=values.dtype)
    windows = torch.cat([around, values, around]).unfold(0, width, 1)
    return windows.nanquantile(0.5, dim=1)


def trend(steps: Tensor, values: Tensor) -> Trend:
    """The trend of at least one value (Theil 1950; Sen 1968; Kendall 1938).

    >>> t = trend(torch.arange(9), torch.arange(9.0) * 2)
    >>> t.first, t.last, t.tau, t.change
    (2.0, 14.0, 1.0, 16.0)
    """
    x, y = _thinned(steps.double()), _thinned(values.double())
    third = math.ceil(len(y) / 3)
    i, j = torch.triu_indices(len(y), len(y), offset=1)
    rises, spans = y[j] - y[i], x[j] - x[i]
    several = len(y) > 1
    slope = float((rises / spans).quantile(0.5)) if several else 0.0
    return Trend(
        first=median(y[:third]),
        last=median(y[-third:]),
        middle=median(y),
        tau=float(rises.sign().mean()) if several else 0.0,
        change=slope * float(x[-1] - x[0]),
    )


def median(values: Tensor) -> float:
    """The median; of an even number of values the mean of the two in the middle."""
    return float(values.double().quantile(0.5))


def _thinned(values: Tensor) -> Tensor:
    """Medians of neighbours, so that no more than `PAIRED` are left."""
    if len(values) <= PAIRED:
        return values
    return torch.stack([part.quantile(0.5) for part in values.tensor_split(PAIRED)])


def stretches(inside: Tensor) -> list[tuple[int, int]]:
    """The first and the last place of each unbroken stretch.

    >>> stretches(torch.tensor([True, False, True, True, False]))
    [(0, 0), (2, 3)]
    """
    padded = torch.nn.functional.pad(inside.to(torch.int8), (1, 1))
    turns = padded.diff()
    starts, ends = (turns == 1).nonzero().flatten(), (turns == -1).nonzero().flatten() - 1
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def is_adaptive(history: History) -> bool:
    """Whether the run's optimiser divides by a preconditioner made of past gradients."""
    return bool(history.facts.get("adaptive", False))


def of_steps(steps: Tensor) -> list[tuple[str, str, float]]:
    """The evidence that every verdict on a run has: from when to when it holds."""
    return [("first_step", "from step", int(steps[0])), ("last_step", "to step", int(steps[-1]))]


def against(text: str) -> str:
    """The last assumption of every verdict on a run: what would speak against it."""
    return f"would be contradicted by {text}"

"""A run as it was watched: one series of numbers per quantity, over the steps of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hesscope.results import html
from hesscope.results.result import Columns, Result

DRAWN = (
    "lambda_max",
    "lambda_1",
    "train_loss",
    "loss",
)  # the first that is known is the small picture


@dataclass(frozen=True)
class Series(Result):
    """The values of one quantity at the steps where it was measured, ascending.

    >>> s = Series(torch.tensor([0, 10]), torch.tensor([2.0, 1.0]).double())
    >>> s.last, s.at(7), len(s)
    (1.0, 2.0, 2)
    """

    steps: Tensor  # (m,) int64
    values: Tensor  # (m,) float64; NaN where it was looked for and has no value

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> float:
        """The latest value; NaN if there is none."""
        return float(self.values[-1]) if len(self) else math.nan

    def at(self, step: int) -> float:
        """The value at a step, or the latest before it; NaN before the first."""
        i = int(torch.searchsorted(self.steps, self.steps.new_tensor(step), right=True)) - 1
        return float(self.values[i]) if i >= 0 else math.nan

    def between(self, first: float, last: float) -> Series:
        """What was measured at first <= step <= last."""
        inside = (self.steps >= first) & (self.steps <= last)
        return Series(self.steps[inside], self.values[inside])

    def finite(self) -> Series:
        """Without what is NaN or infinite."""
        known = self.values.isfinite()
        return Series(self.steps[known], self.values[known])

    def columns(self) -> Columns:
        """A row for each step."""
        return {"step": self.steps, "value": self.values}

    def picture(self) -> str:
        """The value over the steps."""
        return html.line(self.steps.tolist(), self.values.tolist(), _ends(self))

    def __str__(self) -> str:
        if not len(self):
            return "no values"
        first, last = int(self.steps[0]), int(self.steps[-1])
        return f"{len(self)} values of steps {first} to {last}, the last {self.last:.4g}"


@dataclass(frozen=True)
class Event(Result):
    """Something that happened to the watching itself: a row switched off, a run taken up again."""

    step: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.text}"


@dataclass(frozen=True)
class History(Result):
    """The numbers of a run, one `Series` for each quantity, and what happened on the way.

    `history["lambda_max"]` is a series, `history[500:1000]` the history of those steps (the last
    one left out), `history.to_pandas()` a table with one row for each step at which anything is
    known.

    >>> history = History.of({"loss": {0: 2.0, 1: 1.0}, "lambda_max": {0: 3.0}})
    >>> history["loss"].last, "trace" in history, len(history[1:]["lambda_max"])
    (1.0, False, 0)
    """

    series: dict[str, Series]
    events: tuple[Event, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)  # of the problem, optimiser and probe data
    results: dict[str, dict[int, Result]] = field(default_factory=dict)  # spectra and the like

    @classmethod
    def of(cls, numbers: Mapping[str, Mapping[int, float]], **parts: Any) -> History:
        """From {quantity: {step: value}}."""
        return cls({key: _series(values) for key, values in numbers.items()}, **parts)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return self._sliced(which)
        if which not in self.series:
            msg = f"{which!r} was not measured; there are {', '.join(self.series) or 'no numbers'}."
            raise KeyError(msg)
        return self.series[which]

    def __contains__(self, key: object) -> bool:
        return key in self.series

    def __iter__(self) -> Iterator[str]:
        return iter(self.series)

    def __len__(self) -> int:
        return len(self.steps)

    def get(self, key: str) -> Series:
        """The series of a quantity; one without values where it was not measured."""
        return self.series.get(key, _series({}))

    @property
    def steps(self) -> Tensor:
        """(m,) the steps at which anything is known, ascending."""
        found = [series.steps for series in self.series.values()]
        return torch.cat(found).unique() if found else torch.zeros(0, dtype=torch.int64)

    @property
    def last_step(self) -> int:
        """The latest step at which anything is known; -1 where nothing is."""
        return int(self.steps[-1]) if len(self) else -1

    def columns(self) -> Columns:
        """A row for each step at which anything is known, NaN where a quantity was not measured."""
        steps = self.steps
        table: dict[str, Tensor] = {"step": steps}
        for key, series in self.series.items():
            table[key] = torch.full((len(steps),), math.nan, dtype=torch.float64)
            table[key][torch.searchsorted(steps, series.steps)] = series.values
        return table

    def picture(self) -> str:
        """λmax over the steps, or the loss where that is all there is."""
        drawn = next((self.series[key] for key in DRAWN if key in self.series), None)
        return drawn.picture() if drawn is not None else ""

    def __str__(self) -> str:
        if not len(self):
            return "a run of which nothing is known yet"
        lines = [f"steps {int(self.steps[0])} to {self.last_step}, {len(self.series)} quantities"]
        width = max(len(key) for key in self.series)
        lines += [f"  {key:<{width}}  {series}" for key, series in self.series.items()]
        lines += [f"  {event}" for event in self.events]
        return "\n".join(lines)

    def _sliced(self, which: slice) -> History:
        if which.step not in {None, 1}:
            msg = f"history[::{which.step}]: steps are not evenly spaced; slice first and last."
            raise ValueError(msg)
        first = -math.inf if which.start is None else which.start
        last = math.inf if which.stop is None else which.stop - 1

        def inside(step: int) -> bool:
            return bool(first <= step <= last)

        return replace(
            self,
            series={key: series.between(first, last) for key, series in self.series.items()},
            events=tuple(event for event in self.events if inside(event.step)),
            results={
                key: {step: found for step, found in group.items() if inside(step)}
                for key, group in self.results.items()
            },
        )


def _series(values: Mapping[int, float]) -> Series:
    steps = sorted(values)
    numbers = [float(values[step]) for step in steps]
    return Series(
        torch.tensor(steps, dtype=torch.int64), torch.tensor(numbers, dtype=torch.float64)
    )


def _ends(series: Series) -> tuple[str, str]:
    if not len(series):
        return "", ""
    return f"step {int(series.steps[0])}", f"step {int(series.steps[-1])}"

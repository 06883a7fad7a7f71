"""A post-mortem: what came first before a spike, and what it was, most likely cause first."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hesscope.results.history import History
from hesscope.results.result import Columns, Result
from hesscope.results.verdict import Verdict

AXIS = 40  # characters of the axis of time


@dataclass(frozen=True)
class Signal(Result):
    """A quantity that has left where it should be, from `step` on."""

    key: str
    label: str
    step: int
    value: float  # the furthest that it went up to the onset
    limit: float  # beyond which it is a signal

    def __str__(self) -> str:
        return f"{self.label} {self.value:.3g}, beyond {self.limit:.3g}"


@dataclass(frozen=True)
class Postmortem(Result):
    """Why a run has spiked or diverged, from what was measured around it.

    `signals` are those of the quantities that left their usual places up to the onset, earliest
    first; `verdicts` the causes that explain them, most likely first. A healthy run has neither.
    """

    kind: str  # "spike", "divergence" or "none"
    onset: int  # the step at which the loss has begun to rise; -1 where it has not
    peak: int  # the step at which it was highest
    signals: tuple[Signal, ...]
    verdicts: tuple[Verdict, ...]
    history: History

    @property
    def cause(self) -> str:
        """The key of the most likely cause; empty where nothing is claimed."""
        first = next(iter(self.verdicts), None)
        return first.key if first is not None and first.finding else ""

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to explain."""
        return self.kind == "none" and not any(verdict.finding for verdict in self.verdicts)

    @property
    def lead(self) -> int:
        """By how many steps the first signal came before the loss moved; 0 if none did."""
        return max((self.onset - signal.step for signal in self.signals), default=0)

    def columns(self) -> Columns:
        """A row for each signal, by the step of its beginning."""
        keys = ("step", "key", "label", "value", "limit")
        return {key: [getattr(signal, key) for signal in self.signals] for key in keys}

    def picture(self) -> str:
        """The loss over the steps."""
        return self.history.picture()

    def __str__(self) -> str:
        return "\n".join([self._headline(), *self._axis(), *map(str, self.verdicts)])

    def _headline(self) -> str:
        if self.kind == "none":
            return f"no spike and no divergence in {len(self.history)} steps that were looked at"
        began = f"{self.kind}: the loss rises from step {self.onset} on"
        if self.kind == "divergence":
            return began
        return f"{began} and is highest at step {self.peak}"

    def _axis(self) -> list[str]:
        """Each signal as a line that begins where it does, on one axis up to the peak."""
        if self.kind == "none" or not self.signals:
            return []
        first = min(int(self.history.steps[0]), self.signals[0].step)
        span = max(self.peak - first, 1)
        rows = [(signal.step, str(signal)) for signal in self.signals]
        rows.append((self.onset, "the loss"))
        lines = [f"  step {first} {'':<{AXIS - len(f'{first}{self.peak}') - 7}} {self.peak}"]
        for step, text in sorted(rows, key=lambda row: row[0]):
            before = math.floor((step - first) / span * (AXIS - 1))
            lines.append(f"  {'·' * before}{'█' * (AXIS - before)}  {step}: {text}")
        return lines

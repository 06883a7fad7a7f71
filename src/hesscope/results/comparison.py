"""Numbers of several results side by side: which of them differ for certain."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hesscope.results.estimate import Interval, plus_minus
from hesscope.results.result import Columns, Result

NARROW = 0.1  # half the width over the middle up to which an interval is told as a number ± error


@dataclass(frozen=True)
class Compared(Result):
    """One number in several results, as the intervals that hold it.

    >>> row = Compared("λmax", (Interval(1.0, 2.0), Interval(1.5, 4.0), Interval(3.0, 4.0)))
    >>> row.differs
    (False, True)
    """

    name: str
    intervals: tuple[Interval, ...]  # one for each result

    @property
    def differences(self) -> tuple[Interval, ...]:
        """Each less the first, as intervals: they hold when both of theirs do."""
        first = self.intervals[0]
        return tuple(_difference(other, first) for other in self.intervals[1:])

    @property
    def differs(self) -> tuple[bool, ...]:
        """Whether each differs from the first for certain, at the level of its difference."""
        return tuple(0.0 not in difference for difference in self.differences)


@dataclass(frozen=True)
class Comparison(Result):
    """The numbers that several results have in common, with intervals for their differences.

    >>> import torch, hesscope as hs
    >>> spectra = [hs.spectrum(torch.diag(torch.tensor([w, 1.0]).double())) for w in (2.0, 5.0)]
    >>> c = hs.compare(*spectra, labels=["before", "after"])
    >>> c["λmax"].differs, [round(d.low, 6) for d in c["λmax"].differences]
    ((True,), [3.0])
    """

    labels: tuple[str, ...]
    rows: tuple[Compared, ...]
    equal_loss: bool | None = None  # whether training losses are alike; None where they are unknown
    notes: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> Compared:
        for row in self.rows:
            if row.name == name:
                return row
        msg = f"no number {name!r}; there are {', '.join(row.name for row in self.rows)}."
        raise KeyError(msg)

    def columns(self) -> Columns:
        """A row for each number: low and high in each result, and whether it differs."""
        table: dict[str, list[object]] = {"number": [row.name for row in self.rows]}
        for i, label in enumerate(self.labels):
            table[f"{label}: low"] = [row.intervals[i].low for row in self.rows]
            table[f"{label}: high"] = [row.intervals[i].high for row in self.rows]
        for i, label in enumerate(self.labels[1:]):
            table[f"{label}: differs"] = [row.differs[i] for row in self.rows]
        return table

    def __str__(self) -> str:
        cells = [["", *self.labels]]
        for row in self.rows:
            marks = ["", *(_mark(d) for d in row.differences)]
            shown = (f"{_short(i)}{m}" for i, m in zip(row.intervals, marks, strict=True))
            cells.append([row.name, *shown])
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
        lines = [line.rstrip() for line in lines]
        lines.append(f"↑ ↓ above or below {self.labels[0]} for certain; = not told apart")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _difference(other: Interval, first: Interval) -> Interval:
    """What other - first can be. Both hold together at least at 1 - (1 - p) - (1 - q)."""
    level = max(other.level + first.level - 1, 0.0)
    return Interval(other.low - first.high, other.high - first.low, level)


def _mark(difference: Interval) -> str:
    if difference.low > 0:
        return " ↑"
    return " ↓" if difference.high < 0 else " ="


def _short(interval: Interval) -> str:
    """The middle and the error, or both ends where they are far apart.

    >>> _short(Interval(2.0, 2.0)), _short(Interval(1.2339, 1.2341)), _short(Interval(0.5, 7.0))
    ('2', '1.234 ± 1.0e-04', '0.5 to 7')
    """
    middle, half = (interval.low + interval.high) / 2, interval.width / 2
    if half <= NARROW * abs(middle) < math.inf:
        return plus_minus(middle, half)
    return f"{interval.low:.3g} to {interval.high:.3g}"

"""What a history says about the time before an excursion: where each quantity left its place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from hesscope.diagnosis.postmortem.excursion import MAD, Excursion
from hesscope.results.history import History, Series
from hesscope.results.postmortem import Signal

TIMES, STRAY = 3.0, 6.0  # a quantity without a limit of its own has left its usual place there
USUAL_OF = 3  # values at least that tell the usual place


@dataclass(frozen=True)
class Evidence:
    """A history up to the onset of an excursion, and the excursion."""

    history: History
    excursion: Excursion

    @property
    def onset(self) -> int:
        """The step at which the loss has begun to rise."""
        return self.excursion.onset

    def before(self, key: str) -> Series:
        """The finite values up to the onset; the check there sees the model that has moved."""
        return self.history.get(key).finite().between(-math.inf, self.onset)

    def strictly_before(self, key: str) -> Series:
        """The finite values before the onset; those up to it where there are none."""
        earlier = self.history.get(key).finite().between(-math.inf, self.onset - 1)
        return earlier if len(earlier) else self.before(key)

    def over(self, key: str, limit: float, label: str) -> Signal | None:
        """The signal of a quantity that ends over its limit, from where it went there for good.

        The last two checks count as its end: what overshoots may have come back at the onset.
        """
        return _trailing(self.before(key), limit, key, label)

    def grown(self, key: str, label: str) -> Signal | None:
        """The signal of a quantity that has outgrown its usual place by the end.

        Usual is the median of the first half of the values, and the spread about it (median
        absolute deviation of the logarithms). Nothing is said of fewer than three.
        """
        series = self.before(key)
        usual = usual_reach(series)
        return None if math.isnan(usual) else _trailing(series, usual, key, label)

    def layers(self, what: str) -> dict[str, Series]:
        """The series of each layer, `layer/NAME/what`, up to the onset."""
        head, tail = "layer/", f"/{what}"
        keys = (key for key in self.history if key.startswith(head) and key.endswith(tail))
        return {key[len(head) : -len(tail)]: self.before(key) for key in keys}


def usual_reach(series: Series) -> float:
    """How large a positive quantity is usually, at most; NaN where too few values tell.

    >>> import torch
    >>> usual_reach(Series(torch.arange(6), torch.tensor([2.0, 2, 2, 2, 2, 50]).double()))
    6.0
    """
    values = [x for x in series.values.tolist() if x > 0]
    early = values[: max(USUAL_OF, len(values) // 2)]
    if len(early) < USUAL_OF:
        return math.nan
    logs = [math.log(x) for x in early]
    centre = median(logs)
    spread = MAD * median(abs(x - centre) for x in logs)
    return math.exp(min(centre, 600.0)) * max(TIMES, math.exp(min(STRAY * spread, 60.0)))


def _trailing(series: Series, limit: float, key: str, label: str) -> Signal | None:
    """The run of values over the limit that ends at the last value or the one before."""
    steps, values = series.steps.tolist(), series.values.tolist()
    end = next((i for i in _last_two(len(values)) if values[i] > limit), None)
    if end is None:
        return None
    begin = end
    while begin > 0 and values[begin - 1] > limit:
        begin -= 1
    return Signal(key, label, steps[begin], max(values[begin : end + 1]), limit)


def _last_two(count: int) -> Iterator[int]:
    return iter(range(count - 1, max(count - 3, -1), -1))

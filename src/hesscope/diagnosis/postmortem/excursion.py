"""Where the loss leaves its course: the onset and the peak of a spike or a divergence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from hesscope.results.history import History

RISE = 0.2  # of the level: a smaller rise is no spike
UNKNOWN_RISE = 0.3  # where the usual change is not known yet
STRAY = 8.0  # times the usual change from check to check
GAINED = 0.02  # of what was gained so far: what is lost beyond is more than a flicker near zero
ABOVE = 1.5  # times the highest of the values before: beyond, no usual change is asked for
NEAR, LATELY, BEFORE = 3, 10, 20  # values that make the level, the ceiling, the usual change
LARGE = 10.0  # times the level: rises beyond are alike
LASTING = 4  # checks after the first, up to the last one, that make a rise a divergence
MAD = 1.4826  # times the median absolute deviation: the standard deviation of a normal law


@dataclass(frozen=True)
class Excursion:
    """A rise of the loss."""

    kind: str  # "spike" or "divergence"
    onset: int
    peak: int
    level: float  # of the loss before
    height: float  # at the peak; inf where it is not finite


def excursion(history: History) -> Excursion | None:
    """The greatest rise of the loss, or the first of those half as high; None if there is none.

    The loss is that of the probe data where a monitor has it at three checks or more: one bad
    batch moves the training loss without anything having happened to the model. It has risen where
    it lies above the median of the last three values by 20 %, by eight times the usual change
    (median absolute deviation of the changes before, in the logarithm) or 1.5 times as high as the
    last ten, and by a fiftieth of what was gained so far. A loss that is not finite has risen.

    >>> losses = {0: 2.0, 1: 1.5, 2: 1.2, 3: 1.0, 4: 1.8, 5: 6.0, 6: 1.1, 7: 0.9}
    >>> found = excursion(History.of({"loss": losses}))
    >>> found.kind, found.onset, found.peak
    ('spike', 4, 5)
    """
    points = _losses(history)
    risen = [(i, _rise(points, i)) for i in range(1, len(points))]
    risen = [(i, rise) for i, rise in risen if rise > 0]
    if not risen:
        return None
    greatest = max(rise for _, rise in risen)
    first = next(i for i, rise in risen if rise >= greatest / 2)
    return _around(points, first)


def _losses(history: History) -> list[tuple[int, float]]:
    """(step, loss), with inf where it is not finite."""
    series = history.get("loss")
    if len(series.finite()) < NEAR <= len(history.get("train_loss")):
        series = history.get("train_loss")
    found = dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))
    for event in history.events:
        if event.kind == "not finite":
            found[event.step] = math.inf
    return [(step, x if math.isfinite(x) else math.inf) for step, x in sorted(found.items())]


def _rise(points: list[tuple[int, float]], i: int) -> float:
    """By how much the loss at a place lies above its level, if that is a rise; else 0.

    As the logarithm of their ratio, which is the same at each step of an exponential, and capped:
    the first of several large rises counts, whatever comes of it.
    """
    value, level = points[i][1], _level(points, i)
    if math.isinf(value):
        return math.log(LARGE) if math.isfinite(level) else 0.0
    before = [x for _, x in points[max(0, i - BEFORE) : i]]
    if math.isinf(max(before)):
        return 0.0
    gained = max(x for _, x in points[:i]) - min(before)
    least = RISE if len(before) > NEAR else UNKNOWN_RISE
    flicker = GAINED * gained if value < LARGE * max(_settled(before[-LATELY:])) else 0.0
    enough = value - level > max(least * abs(level), flicker)
    if not enough or value <= min(_reach(level, before, STRAY), _ceiling(before[-LATELY:])):
        return 0.0
    return math.log(min(value / level, LARGE)) if level > 0 else math.log(LARGE)


def _ceiling(before: list[float]) -> float:
    """What no value lies above by chance."""
    highest = max(_settled(before))
    return highest + (ABOVE - 1) * abs(highest)


def _settled(before: list[float]) -> list[float]:
    """Without the last two, which may be on the way up already."""
    return before[:-2] if len(before) > NEAR else before


def _level(points: list[tuple[int, float]], i: int) -> float:
    return median(x for _, x in points[max(0, i - NEAR) : i])


def _reach(level: float, before: list[float], times: float) -> float:
    """The level and so many usual changes; in the logarithm where all are positive."""
    logs = min([*before, level]) > 0
    seen = [math.log(x) for x in before] if logs else before
    changes = [b - a for a, b in pairwise(seen)]
    if len(changes) < NEAR:
        return level
    centre = median(changes)
    usual = MAD * median(abs(change - centre) for change in changes)
    return level * math.exp(min(times * usual, 700.0)) if logs else level + times * usual


def _around(points: list[tuple[int, float]], first: int) -> Excursion:
    """The whole of the rise that is seen at this place."""
    level, begin = _level(points, first), first
    before = [x for _, x in points[max(0, first - BEFORE) : first]]
    while begin > 1 and points[begin - 1][1] > max(
        _reach(level, before, 3), level * (1 + RISE / 3)
    ):
        begin -= 1
    back = level + (points[first][1] - level) / 2 if math.isfinite(points[first][1]) else math.inf
    end = first
    while end + 1 < len(points) and points[end + 1][1] >= min(back, 1e300):
        end += 1
    top = max(range(begin, end + 1), key=lambda j: points[j][1])
    lasting = end == len(points) - 1 and end - begin >= LASTING
    kind = "divergence" if math.isinf(points[top][1]) or lasting else "spike"
    return Excursion(kind, points[begin][0], points[top][0], level, points[top][1])

"""When a monitor looks: every so many steps, or as often as a share of the time allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from hesscope.system.collectives import num_processes, sum_of_number

FIRST_LOOK = 8  # steps after the first check at which the time of a step is first known
LATE = 0.8  # what a long check still counts after the next: the costs of checks vary


class Every:
    """A check at every so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def is_due(self, step: int) -> bool:
        """Whether there is a check before this step."""
        return step % self.steps == 0

    def spent(self, seconds: float) -> None:
        """A check has taken this long: of no concern here."""


class Overhead:
    """Checks that take at most a share of the time of training, all of them together.

    A check is made when with it, as long as those of late, all of them stay within the share of the
    time that training itself has taken. The first comes at once: its cost is not known, and it is
    worked off before the second. Between two checks a step costs one comparison; how many steps the
    next one is away follows from their mean time, over all processes, so that all agree.

    >>> times = iter([0.0, 1.8, 31.0])
    >>> schedule = Overhead(0.1, lambda: next(times))
    >>> schedule.is_due(0), schedule.spent(1.0)
    (True, None)
    >>> [step for step in range(1, 201) if schedule.is_due(step)]  # of 0.1 s: 200 for two checks
    [200]
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.share, self._clock = share, clock
        self._began = clock()
        self._first: int | None = None  # the step at which the monitor began
        self._next = 0
        self._checks, self._longest = 0.0, 0.0

    def is_due(self, step: int) -> bool:
        """Whether there is a check before this step."""
        if self._first is None:
            self._first, self._next = step, step + FIRST_LOOK
            return True
        if step < self._next:
            return False
        training = _shared(self._clock() - self._began) - self._checks
        short = (self._checks + self._longest) / self.share - training
        if short <= 0:
            self._next = step + 1
            return True
        per_step = max(training, 1e-9) / (step - self._first)
        self._next = step + max(1, math.ceil(short / per_step))
        return False

    def spent(self, seconds: float) -> None:
        """A check has taken this long."""
        seconds = _shared(seconds)
        self._checks += seconds
        self._longest = max(seconds, LATE * self._longest)


def _shared(seconds: float) -> float:
    """The mean over all processes."""
    return sum_of_number(seconds) / num_processes()

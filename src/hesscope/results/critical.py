"""How long the next step may be before the loss rises."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hesscope.results.estimate import Interval
from hesscope.results.result import Result


@dataclass(frozen=True)
class CriticalStep(Result):
    """A bracket of the multiple of a step at which the loss after it exceeds the loss before.

    Up to `low` times the step the loss was not seen to rise, at `high` times it was: 0 and 0 where
    the step points uphill, and `high` is infinite where no rise was found.

    >>> print(CriticalStep(2.0, 2.42, 0.1, -1.0, "SGD", 4))
    SGD: the loss rises from 2 to 2.42 times the step on, lr 0.2 to 0.242; critical sharpness...
    """

    low: float
    high: float
    lr: float  # the largest of the optimiser's groups: that of the step itself
    slope: float  # g·d, for the whole step d
    optimizer: str
    num_losses: int  # forward passes over the data
    points: tuple[tuple[float, float], ...] = ()  # the multiples looked at, and L(θ + s d) - L(θ)

    @property
    def scale(self) -> float:
        """The middle of the bracket, √(low·high); `high` or `low` where that is all there is.

        >>> CriticalStep(2.0, 2.42, 0.1, -1.0, "SGD", 4).scale
        2.2
        """
        if math.isinf(self.high):
            return math.inf
        return math.sqrt(self.low * self.high) if self.low > 0 else self.high

    @property
    def critical_lr(self) -> Interval:
        """The learning rates between which the step begins to climb."""
        return Interval(self.low * self.lr, self.high * self.lr)

    @property
    def sharpness(self) -> float:
        """2/(critical lr): infinite for a step uphill, 0 where no rise was found.

        >>> round(CriticalStep(2.0, 2.42, 0.1, -1.0, "SGD", 4).sharpness, 2)
        9.09
        """
        reach = self.scale * self.lr
        return 2 / reach if reach > 0 else math.inf

    def __str__(self) -> str:
        if self.high == 0:
            return f"the step of {self.optimizer} points uphill: it climbs at any length"
        cost = f"({self.num_losses} losses)"
        if math.isinf(self.high):
            return f"{self.optimizer}: no rise up to {self.low:.4g} times the step {cost}"
        rates = self.critical_lr
        return (
            f"{self.optimizer}: the loss rises from {self.low:.4g} to {self.high:.4g} times the "
            f"step on, lr {rates.low:.4g} to {rates.high:.4g}; critical sharpness "
            f"{self.sharpness:.4g} {cost}"
        )

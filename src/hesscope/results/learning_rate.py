"""A learning rate from curvature and noise, and what limits it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hesscope.results.estimate import Interval
from hesscope.results.result import Result


@dataclass(frozen=True)
class LearningRate(Result):
    """A learning rate to try: the smallest of what curvature and noise allow. Unknown is NaN.

    >>> found = LearningRate(0.05, "the sharpest direction", 0.1, 0.4, 0.3, "SGD", 8, 24.0)
    >>> print(found)
    SGD: try lr 0.05, limited by the sharpest direction; steps grow above 0.1, and on batches of 8
    the loss is expected to fall most at 0.3
    >>> found.bounds
    Interval(low=0.05, high=0.1, level=1.0)
    """

    lr: float
    limited_by: str
    stability_limit: float  # above, repeated steps grow: with the noise of batches, if known
    best_along: float  # of one step on the whole data
    best_on_batches: float  # of one step on such batches
    optimizer: str
    batch_size: int | None = None
    noise_scale: float = math.nan  # examples in a batch whose noise is as large as the gradient
    assumptions: tuple[str, ...] = ()
    num_matvecs: int = 0
    num_gradients: float = 0.0

    @property
    def bounds(self) -> Interval:
        """From the suggestion to the largest lr that is stable; NaN where that is not known."""
        return Interval(self.lr, self.stability_limit)

    def __str__(self) -> str:
        if math.isnan(self.lr):
            return f"{self.optimizer}: no lr can be suggested, for no limit of it is known"
        where = "" if self.batch_size is None else f"on batches of {self.batch_size} "
        lines = [
            f"{self.optimizer}: try lr {self.lr:.3g}, limited by {self.limited_by}; steps grow "
            f"above {self.stability_limit:.3g}, and {where}",
            f"the loss is expected to fall most at {self.best_on_batches:.3g}",
        ]
        return "\n".join([line.rstrip() for line in lines])

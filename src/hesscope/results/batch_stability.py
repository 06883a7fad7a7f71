"""What the batches of SGD leave of the largest stable learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hesscope.results.result import Result


@dataclass(frozen=True)
class BatchStability(Result):
    """The learning rates at which steps near a minimum begin to grow, with batches and without.

    Below `lr_limit` the mean square of an error shrinks under steps on random batches of
    `batch_size` examples, above it grows; `full_batch_limit` is that of the mean over all data.

    >>> found = BatchStability(4, 0.1, 0.3, (0.11, 0.1), "SGD", 100.0, 0.1, 7, 16, 50.0)
    >>> round(found.noise_factor, 9), round(found.last_change, 9)
    (3.0, 0.1)
    """

    batch_size: int
    lr_limit: float  # of the mean square
    full_batch_limit: float  # from the mean curvature alone
    rounds: tuple[float, ...]  # lr_limit as more vectors were taken in; falls, and the last counts
    optimizer: str  # what makes the steps
    num_examples: float
    largest_share: float  # of the noise that makes it, on the one example with the most
    largest_example: int  # its place in this process's data
    num_vectors: int
    num_matvecs: float  # of the Gauss-Newton matrix

    @property
    def noise_factor(self) -> float:
        """full_batch_limit / lr_limit, at least 1: by how much the noise of batches lowers it."""
        return self.full_batch_limit / self.lr_limit if self.lr_limit > 0 else math.inf

    @property
    def last_change(self) -> float:
        """By which share of it the last round lowered the limit: how far more could, roughly."""
        if len(self.rounds) < 2 or self.rounds[-1] == 0:
            return math.nan
        return self.rounds[-2] / self.rounds[-1] - 1

    def __str__(self) -> str:
        return (
            f"{self.optimizer} on batches of {self.batch_size} of {self.num_examples:g} examples: "
            f"the mean square grows above lr {self.lr_limit:.4g}, {self.noise_factor:.3g} times "
            f"below the {self.full_batch_limit:.4g} of the whole data (last round "
            f"{self.last_change:.1%}); example {self.largest_example} makes "
            f"{self.largest_share:.0%} of it ({self.num_vectors} vectors, "
            f"{self.num_matvecs:.0f} matvecs)"
        )

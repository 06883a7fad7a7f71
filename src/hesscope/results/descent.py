"""Where a model stands: how steep the loss is, and how it curves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hesscope.results.result import Result


@dataclass(frozen=True)
class Curvature(Result):
    """The ends of the spectrum, as far as they are known."""

    lambda_max: float
    lambda_max_error: float
    lambda_min: float  # of a unit vector, so the true λmin is not above it
    lambda_min_error: float
    lower: float  # no eigenvalue lies below, with probability 1 - delta
    upper: float  # no eigenvalue lies above, with probability 1 - delta
    noise: float  # rounding noise of the products
    delta: float

    @property
    def epsilon(self) -> float:
        """What counts as zero curvature: 1e-4 of λmax, at least the noise."""
        return max(1e-4 * abs(self.lambda_max), self.noise)

    @property
    def negative(self) -> bool:
        """Whether negative curvature is proven: v'Hv < 0 by more than rounding."""
        return self.lambda_min < -self.noise

    @property
    def definite(self) -> bool:
        """Whether λmin > 0 is certified, beyond rounding."""
        return self.lower > self.noise

    @property
    def none(self) -> bool:
        """Whether it is certified that there is no curvature at all beyond rounding."""
        return self.lower >= -self.noise and self.upper <= self.noise

    @property
    def never_negative(self) -> bool:
        """Whether λmin >= -epsilon is certified."""
        return self.lower >= -self.epsilon


@dataclass(frozen=True)
class Descent(Result):
    """The slope of the loss: how steep, how sure, and how fast it can be walked down."""

    gradient_norm: float
    gradient_noise: float  # standard error over the data; NaN when that is not known
    rounding: float  # gradient norms below are rounding
    tolerance: float = 0.0  # gradient norms below are called zero by the user
    progress: float = math.nan  # decrease that one step promises, relative to the loss
    escaped: float = math.nan  # measured decrease of the loss along the direction of λmin
    predicted: float = math.nan  # the same by the quadratic model
    fell: float = math.nan  # measured decrease along a direction without curvature

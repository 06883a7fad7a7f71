"""A step of the parameters beside the curvature, and what the optimiser can bear."""

from __future__ import annotations

import math
from dataclasses import dataclass

# lr over its limit at the edge of stability. Full-batch training hovers there at 1.00 to 1.12 with
# gradient descent, 0.99 to 1.18 with RMSprop, 0.72 to 1.10 with Adam, and up to half of all steps
# raise the loss, by 5 % of it at most (240 steps after a thousand, tanh networks, 3 seeds each).
EDGE, EDGE_ADAPTIVE = (0.9, 1.2), (0.8, 1.2)


# Small convolutional networks, 100 to 300 steps, 8 runs: λmax with running statistics is 1.6 to 5.5
# times the one with the statistics of the batch, which is the one that training meets.
RUNNING = 10.0


USUAL_RISE = 0.2  # of the loss in one step: at the edge, a larger one is no longer usual


QUADRATIC = 0.1  # a remainder below this share of the predicted change: the model holds


@dataclass(frozen=True)
class Step:
    """An update d of the parameters beside the curvature, and what the optimiser can bear.

    Repeated steps along the sharpest direction die out while lr·sharpness < factor, where
    sharpness is λmax of P⁻¹H for the optimiser's preconditioner P. What is not known is NaN.
    """

    g_dot_g: float
    g_dot_Hg: float  # noqa: N815  the formula's own letters
    lambda_max: float
    lambda_max_error: float
    lr: float | None = None
    slope: float = math.nan  # g·d
    curvature: float = math.nan  # d·Hd
    change: float = math.nan  # L(θ + d) - L(θ), infinite where the step leaves the finite losses
    rounding: float = 0.0  # of the change
    loss: float = math.nan  # L(θ)
    sharpness: float = math.nan  # λmax of P⁻¹H
    factor: float = 2.0  # NaN where what the optimiser can bear is not known yet
    formula: str = "2/λmax"
    optimizer: str = "gradient descent"
    adaptive: bool = False  # P is made of past gradients, and grows with steps that oscillate
    running_statistics: bool = False  # normalises as in evaluation, unlike in training
    source: str = ""

    @property
    def predicted(self) -> float:
        """g·d + ½ d·Hd."""
        return self.slope + self.curvature / 2

    @property
    def remainder(self) -> float:
        """What the quadratic model leaves open, relative to what it predicts."""
        missed = max(abs(self.change - self.predicted) - self.rounding, 0.0)
        return missed / abs(self.predicted) if self.predicted != 0 else math.inf

    @property
    def limit(self) -> float:
        """2 g·g/g·Hg: above, a step along the gradient climbs; infinite when g·Hg <= 0."""
        return 2 * self.g_dot_g / self.g_dot_Hg if self.g_dot_Hg > 0 else math.inf

    @property
    def scale(self) -> float:
        """The multiple of this step from which on it climbs, to second order."""
        return -2 * self.slope / self.curvature if self.curvature > 0 else math.inf

    @property
    def stable(self) -> float:
        """The learning rate above which repeated steps grow along the sharpest direction."""
        if math.isnan(self.factor):
            return math.nan
        sharpness = self.lambda_max if math.isnan(self.sharpness) else self.sharpness
        return self.factor / sharpness if sharpness > 0 else math.inf

    @property
    def climbs(self) -> bool:
        """Whether the measured loss rises by more than rounding, or is not finite."""
        return not self.change <= self.rounding and not math.isnan(self.change)

    @property
    def at_the_edge(self) -> bool:
        """Whether lr hovers about its limit, and this step does not raise the loss unusually."""
        low, high = EDGE_ADAPTIVE if self.adaptive else EDGE
        if self.lr is None or not low <= self.lr / self.stable <= high:
            return False
        return not self.climbs or (self.slope <= 0 and self.change <= USUAL_RISE * self.loss)

    @property
    def unlike_training(self) -> bool:
        """Whether training, with the statistics of its batches, may well bear this step."""
        if self.lr is None or not math.isfinite(self.change):
            return False
        return self.running_statistics and self.lr <= RUNNING * self.stable

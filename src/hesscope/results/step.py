"""A step of the parameters beside the curvature, and what the optimiser can bear."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hesscope.results.result import Result


@dataclass(frozen=True)
class Step(Result):
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
    accumulation: float = 1.0  # lr g moves θ by so many lr g in all, by momentum
    adaptive: bool = False  # P is made of past gradients, and grows with steps that oscillate
    fixed_length: bool = False  # steps do not shrink with the gradient; the limit is that of now
    running_statistics: bool = False  # normalises as in evaluation, unlike in training
    source: str = ""
    uphill: str = ""  # why a step that climbs to first order does
    Hg_norm: float = math.nan
    unknown: str = ""  # why `factor` is NaN, in words that follow "what repeated steps can bear"

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
    def cancels(self) -> bool:
        """Whether curvatures of both signs cancel in g·Hg, which then says nothing of its own.

        Where H has no negative curvature, ‖Hg‖² <= λmax g·Hg; a hundredth is left to rounding.

        >>> Step(1.0, 1e-5, 1.0, 0.0, Hg_norm=0.1).cancels  # as of diag(1, -1) on (.71, .70)
        True
        >>> Step(1.0, 1e-5, 1.0, 0.0, Hg_norm=1e-5).cancels  # all of it along one flat direction
        False
        """
        return self.Hg_norm**2 > 1.01 * self.lambda_max * self.g_dot_Hg

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

"""Is the step right for the curvature? What this step does, and what repeated steps do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hesscope.results.verdict import Confidence, Verdict

SOURCE = (
    "quadratic model: LeCun, Bottou, Orr and Müller 1998, section 4; edge of stability: Cohen, "
    "Kaur, Li, Kolter and Talwalkar 2021, for adaptive optimisers Cohen et al. 2022"
)
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


def step_size(step: Step) -> Verdict:
    """The verdict "step size".

    To second order the update d changes the loss by g·d + ½ d·Hd. For gradient descent it climbs
    when lr exceeds 2 g·g/g·Hg (no limit when g·Hg <= 0) and gains most at half of that. Repeated
    steps near a minimum are stable below factor/sharpness: 2/λmax, (2 + 2β)/λmax with momentum.

    >>> step = Step(1.0, 10.0, 10.0, 0.0, lr=0.3, slope=-0.3, curvature=0.9, change=0.15)
    >>> step_size(step).claim
    'too large: this step climbs, because the curvature along it outweighs its slope'
    """
    claim, advice, finding = _judge(step)
    confidence: Confidence = "measured"
    if finding and step.unlike_training:
        claim, advice, finding = _as_in_evaluation(step)
        confidence = "undecided"
    assumptions = ["measured on the data given, not on the batch of the next step"]
    if step.lr is None:
        assumptions = ["plain gradient descent on the data given, without momentum"]
    elif not step.remainder <= QUADRATIC:
        assumptions.append("far from a minimum: the stability limit is only a safe side")
    return Verdict(
        name="step size",
        claim=claim,
        evidence=_evidence(step),
        assumptions=tuple(assumptions),
        confidence=confidence,
        advice=advice,
        source=step.source or SOURCE,
        finding=finding,
    )


def _evidence(step: Step) -> dict[str, float]:
    evidence = {
        step.formula: step.stable,
        "λmax error": step.lambda_max_error,
        "2 g·g/g·Hg": step.limit,
        "best along g": step.limit / 2,
    }
    if step.lr is not None:
        evidence |= {
            "lr": step.lr,
            "lr over its limit": step.lr / step.stable,
            "η λmax": step.lr * step.lambda_max,
            "predicted change": step.predicted,
            "measured change": step.change,
            "climbs from this multiple of the step": step.scale,
        }
    return {name: value for name, value in evidence.items() if not math.isnan(value)}


def _judge(step: Step) -> tuple[str, str, bool]:
    bounds = f"unstable above {_number(step.stable)} = {step.formula}"
    along = f"along this gradient {_number(step.limit)}"
    if step.lr is None:
        return f"{bounds}; {along}", "", False
    ratio = step.lr / step.stable
    if step.at_the_edge:
        return _edge(step, ratio)
    if step.climbs:
        return _climbing(step)
    if math.isnan(ratio):
        return (
            f"lr {step.lr:g}: this step lowers the loss; what repeated steps can bear is known "
            f"once {step.optimizer} has made steps",
            "",
            False,
        )
    if ratio > 1:
        return _above_the_limit(step, ratio)
    return f"lr {step.lr:g} is fine: {bounds}; {along}", "", False


def _as_in_evaluation(step: Step) -> tuple[str, str, bool]:
    assert step.lr is not None
    return (
        f"undecided: lr {step.lr:g} is {step.lr / step.stable:.2g} times {step.formula} with the "
        "running statistics of batch normalisation, but training uses those of its batches, with "
        "which the loss is less sharp (by a factor 2 to 6 in small networks)",
        "hs.Problem(..., training=True) and hs.diagnose(..., check=False) measure the loss with "
        "the statistics of each batch",
        False,
    )


def _edge(step: Step, ratio: float) -> tuple[str, str, bool]:
    claim = f"lr {step.lr:g} is at the edge of stability: {ratio:.2f} of {step.formula}"
    if not step.climbs:
        return claim, "usual for full-batch training; a lower lr gives a smoother descent", False
    return (
        f"{claim}; this step climbs",
        "usual for full-batch training, if the loss falls over tens of steps; if it rises step "
        f"after step, {_smaller(step)}",
        False,
    )


def _climbing(step: Step) -> tuple[str, str, bool]:
    if step.slope > 0:
        return (
            "this step climbs because it points uphill: it comes from earlier gradients, not "
            "from this one",
            "less momentum, or a warm-up; a smaller lr alone only climbs more slowly",
            True,
        )
    if math.isinf(step.change):
        return "too large: after this step the loss is not finite", _smaller(step), True
    if step.predicted > 0:
        return (
            "too large: this step climbs, because the curvature along it outweighs its slope",
            _smaller(step),
            True,
        )
    return (
        "too large: this step climbs, because the loss bends more than the curvature here tells",
        f"halve lr until the measured change is negative, or clip the update; {_smaller(step)}",
        True,
    )


def _above_the_limit(step: Step, ratio: float) -> tuple[str, str, bool]:
    if step.adaptive:  # measured: 10 to 300 times in healthy runs, where a feature is rare
        return (
            f"lr {step.lr:g} is {ratio:.2g} times {step.formula}, but this step lowers the loss: "
            f"{step.optimizer} shortens steps that oscillate, so this limit warns and no more",
            f"if the loss jumps, lr below {_number(step.stable)}, or a larger eps",
            False,
        )
    if step.remainder <= QUADRATIC or math.isnan(step.change):
        return (
            f"lr {step.lr:g} is {ratio:.2g} times {step.formula} = {_number(step.stable)}: the "
            "sharpest direction oscillates and grows",
            f"lr below {_number(step.stable)}, or a warm-up from there",
            True,
        )
    return (
        f"lr {step.lr:g} is {ratio:.2g} times {step.formula}, but this step goes far beyond the "
        "quadratic model and the loss falls: the limit is only a safe side here",
        f"below {_number(step.stable)} steps are safe also near a minimum",
        False,
    )


def _smaller(step: Step) -> str:
    if step.lr is not None and math.isfinite(step.scale) and step.scale > 0:
        return f"use lr {step.lr * step.scale / 2:.3g}, the best along this step, or less"
    return f"use lr below {_number(step.stable)}"


def _number(value: float) -> str:
    return "no finite limit" if math.isinf(value) else f"{value:.4g}"

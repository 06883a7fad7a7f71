"""What the condition of the Hessian means for plain gradient descent."""

from __future__ import annotations

import math

from hesscope.diagnosis import words
from hesscope.results.conditioning import Conditioning
from hesscope.results.estimate import Interval
from hesscope.results.verdict import Confidence, Verdict, known

SOURCE = (
    "rate of gradient descent: Nocedal and Wright 2006, theorem 3.3; scales of inputs: LeCun, "
    "Bottou, Orr and Müller 1998, section 4.3; gradient in the top space: Gur-Ari, Roberts and "
    "Dyer 2018"
)
# 1e4 in curvature from the inputs alone. Measured: 7 for pixels of the digits, 1.4 to
# 2 for points around class centres, 886 to 1190 for features planted at scales 1:1000.
SCALES = 100.0
# Curvature along the gradient over the largest: below, ten thousand steps at the largest stable
# learning rate do not lower what is left by a factor e. Healthy networks at start, middle and end
# of training were above 4e-3, or negative; descent stuck by features 1:1000 is at 1e-6.
CREEPING = 1e-4
LOOSE = 100.0  # an interval with more than this between its ends is told by its lower end
MOSTLY = 0.5  # of the squared gradient


def conditioning(
    c: Conditioning,
    gradient_in_top: float,
    num_top: int,
    lr: float | None = None,
    *,
    gradient_curvature: float = math.nan,
    feature_ratio: float = math.nan,
) -> Verdict:
    """The verdict "conditioning": how unequal the curvatures are, and what that does to descent.

    Gradient descent at the largest stable learning rate 2/λmax shrinks the distance along a
    direction of curvature λ by a factor e in λmax/2λ steps; at the learning rate η, in 1/ηλ. It is
    told for the median |λ| above tau, a typical direction. Within ± tau there is no speed at all.

    Networks are ill-conditioned and singular by nature and train all the same, so neither a large κ
    nor flat directions are a finding. A finding needs a cause that can be acted on: input features
    whose scales differ by 100 and more, or a gradient so flat (g·Hg/g·g below 1e-4 of the largest
    |λ|) that descent creeps.

    Args:
        c: the condition of the Hessian.
        gradient_in_top: share of ‖g‖² in the space of the `num_top` largest eigenvalues; NaN if
            not known.
        num_top: how many these are.
        lr: the learning rate of plain gradient descent.
        gradient_curvature: g·Hg/g·g; NaN if not known, at a critical point, where the gradient is
            rounding, and where curvatures of both signs cancel in it: a value that is small by
            accident is no speed.
        feature_ratio: largest over smallest scale of the input features; NaN if not known.
    """
    size = c.size
    steps = _steps(c, lr)
    relative = gradient_curvature / size if size > 0 else math.nan
    claim, confidence, advice, finding = _judge(c, steps, relative, feature_ratio, lr)
    by_features = finding and feature_ratio >= SCALES
    if gradient_in_top > MOSTLY and not finding:
        claim += (
            f"; {words.share(gradient_in_top)} of the gradient lies along the "
            f"{_sharpest(num_top)}, so steps bounce across the valley more than they go along it"
        )
    return Verdict(
        key="conditioning",
        name="conditioning",
        claim=claim,
        **known(
            ("lambda_abs_max", "largest |λ|", size),
            ("tau", "tau: smaller curvatures count as zero", c.tau),
            ("flat_low", "flat directions at least", c.null.low),
            ("flat_high", "flat directions at most", c.null.high),
            ("steps_low", "steps that leave 37 % of the error, at least", steps.low),
            ("steps_high", "at most", steps.high),
            ("gradient_in_top", f"gradient in the top {num_top}", gradient_in_top),
            ("gradient_curvature", "curvature along the gradient / largest", relative),
            ("feature_ratio", "largest / smallest feature scale", feature_ratio),
        ),
        assumptions=("plain gradient descent where the loss is quadratic",),
        confidence=confidence,
        advice=advice,
        source=SOURCE,
        finding=finding,
        cause="feature_scales" if by_features else "",
    )


def _steps(c: Conditioning, lr: float | None) -> Interval:
    """Steps that shrink the distance along the median direction by a factor e."""
    ratio = c.ratios.get(0.5, Interval(math.nan, math.nan))
    factor = 0.5 if lr is None or c.size == 0 else 1 / (lr * c.size)
    return Interval(factor * ratio.low, factor * ratio.high, ratio.level)


def _judge(
    c: Conditioning, steps: Interval, relative: float, feature_ratio: float, lr: float | None
) -> tuple[str, Confidence, str, bool]:
    if c.size <= c.tau or c.positive.high + c.negative.high == 0:
        claim = f"the loss is flat here: no curvature above {c.tau:.1e} was seen"
        return claim, "measured", "", False
    if feature_ratio >= SCALES:
        return (
            f"ill-conditioned by the input features: their scales differ by a factor "
            f"{words.plain(feature_ratio)}, the curvatures of their weights by its square",
            "measured",
            "normalise the features (mean 0, standard deviation 1); a per-parameter method such "
            "as Adam helps in part",
            True,
        )
    if 0 < relative < CREEPING:
        return (
            "gradient descent creeps: the gradient points where the loss is "
            f"{words.plain(1 / relative)} times flatter than in the sharpest direction, so even "
            "at the largest safe learning rate what is left takes about "
            f"{words.steps(0.5 / relative)}",
            "measured",
            "normalise inputs and layers, or use an optimiser with a step for each parameter such "
            "as Adam; a larger learning rate is not stable",
            True,
        )
    return *_usual(c, steps, lr), False


def _usual(c: Conditioning, steps: Interval, lr: float | None) -> tuple[str, Confidence, str]:
    flat = _flat(c)
    rate = "the largest safe learning rate" if lr is None else f"lr {lr:g}"
    if math.isnan(steps.low):
        return f"undecided: how unequal the curvatures are is not known{flat}", "undecided", _MORE
    if steps.high > LOOSE * steps.low and steps.low <= 1:
        return (
            f"undecided: at {rate} gradient descent gets rid of most of the error in a typical "
            f"direction in {words.steps(1, steps.high)}{flat}",
            "undecided",
            _MORE,
        )
    if steps.high > LOOSE * steps.low:  # the lower end holds, and says enough
        return (
            f"slow directions need between {words.plain(steps.low)} and "
            f"{words.steps(steps.high)} of "
            f"gradient descent at {rate}{flat}",
            "measured",
            "" if steps.low < LOOSE else _EVEN,
        )
    return (
        f"typical directions need about {words.steps(steps.low, steps.high)} of gradient "
        f"descent at {rate}{flat}",
        "measured",
        "" if steps.low < LOOSE else _EVEN,
    )


_EVEN = "no action needed: usual for networks; an optimiser such as Adam evens this out"
_MORE = "no action needed; hs.conditioning with more products narrows this"


def _flat(c: Conditioning) -> str:
    if c.singular:
        num = words.among(c.null.low, c.null.high)
        return f"; {num} of {c.n} directions are flat: nothing moves along them but weight decay"
    if c.definite:
        low, high = (words.plain(end) for end in (c.kappa.low, c.kappa.high))
        times = low if low == high else f"{low} to {high}"
        alike = "all directions are alike"
        return (
            f"; the sharpest is {times} times as sharp as the flattest"
            if times != "1"
            else f"; {alike}"
        )
    return ""


def _sharpest(num: int) -> str:
    return "sharpest direction" if num == 1 else f"{num} sharpest directions"

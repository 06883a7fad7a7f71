"""Is the step right for the curvature? What this step does, and what repeated steps do."""

from __future__ import annotations

import math
from typing import Any

from hesscope.diagnosis import words
from hesscope.results.batch_stability import BatchStability
from hesscope.results.learning_rate import LearningRate
from hesscope.results.step import Step
from hesscope.results.verdict import Confidence, Verdict, known

SOURCE = (
    "quadratic model: LeCun, Bottou, Orr and Müller 1998, section 4; edge of stability: Cohen, "
    "Kaur, Li, Kolter and Talwalkar 2021, for adaptive optimisers Cohen et al. 2022"
)
BATCHES = "mean square stability: Ma and Ying 2021; Mulayoff and Michaeli 2024"
# lr over its limit at the edge of stability. Full-batch training hovers there at 1.00 to 1.12 with
# gradient descent, 0.99 to 1.18 with RMSprop, 0.72 to 1.10 with Adam, and up to half of all steps
# raise the loss, by 5 % of it at most (240 steps after a thousand, tanh networks, 3 seeds each).
EDGE, EDGE_ADAPTIVE = (0.9, 1.2), (0.8, 1.2)
# Small convolutional networks, 100 to 300 steps, 8 runs: λmax with running statistics is 1.6 to 5.5
# times the one with the statistics of the batch, which is the one that training meets.
RUNNING = 10.0
NOISY = 1.05  # batches count where they lower the limit by more than that
# Networks of 650 to 3,466 parameters, 256 digits, batches of 1 to 16, 3 runs for each lr: training
# was lost from 0.8 (where the loss is quadratic) to 3.4 times this limit on (where it flattens).
LOST = 1.3
ALONE = 0.2  # of the noise, from which on an example is named
USUAL_RISE = 0.2  # of the loss in one step: at the edge, a larger one is no longer usual
# Of the loss in one step that points uphill, at most: on the data given, half of the steps do so
# where batches are noisy. Classifiers at their noise floor with Adam: 1e-5 to 8e-3; stale
# momentum: 0.03.
DRIFT, DRIFT_NOISY = 1e-3, 0.02
FAILS = 1.0  # a remainder above: the prediction misses by more than it predicts
QUADRATIC = 0.1  # a remainder below this share of the predicted change: the model holds


def step_size(
    step: Step,
    batches: BatchStability | None = None,
    suggested: LearningRate | None = None,
    *,
    noisy: bool = False,
) -> Verdict:
    """The verdict "step size".

    To second order the update d changes the loss by g·d + ½ d·Hd. For gradient descent it climbs
    when lr exceeds 2 g·g/g·Hg (no limit when g·Hg <= 0) and gains most at half of that. Repeated
    steps near a minimum are stable below factor/sharpness: 2/λmax, (2 + 2β)/λmax with momentum.
    On random batches the mean square of an error grows from a lower lr on, which `batches` tells.
    The lr of `hs.suggest_lr` stands with the numbers, and in the advice of a finding.
    `noisy` says that the gradient is within twice its sampling noise: steps then point uphill a
    little as often as not.

    >>> step = Step(1.0, 10.0, 10.0, 0.0, lr=0.3, slope=-0.3, curvature=0.9, change=0.15)
    >>> step_size(step).claim
    'too large: this step climbs, because the curvature along it outweighs its slope'
    """
    claim, advice, finding = _judge(step, noisy)
    claim += _off(step)
    if batches is not None and not finding:
        claim, advice, finding = _on_batches(step, batches, claim, advice)
    confidence: Confidence = "measured"
    if finding and _unlike_training(step):
        claim, advice, finding = _as_in_evaluation(step)
        confidence = "undecided"
    lr = math.nan if suggested is None else suggested.lr
    if finding and not math.isnan(lr) and step.slope <= 0:
        advice = f"{advice}; to start from: lr {_number(lr)}"
    assumptions = ["measured on the data given, not on the batch of the next step"]
    if batches is not None:
        assumptions.append(
            "batches drawn at random from the data given; their noise from Gauss-Newton matrices"
        )
    if step.lr is None:
        assumptions = ["plain gradient descent on the data given, without momentum"]
    elif not step.remainder <= QUADRATIC:
        assumptions.append("far from a minimum: the stability limit is only a safe side")
    return Verdict(
        key="step_size",
        name="step size",
        claim=claim,
        **_evidence(step, batches, lr),
        assumptions=tuple(assumptions),
        confidence=confidence,
        advice=advice,
        source=(step.source or SOURCE) + (f"; {BATCHES}" if batches is not None else ""),
        finding=finding,
    )


def _evidence(step: Step, batches: BatchStability | None, suggested: float) -> dict[str, Any]:
    limit = math.nan if batches is None else step.stable / batches.noise_factor
    size = math.nan if batches is None else batches.batch_size
    lr = math.nan if step.lr is None else step.lr
    here = step.lr is not None
    return known(
        ("stability_limit", step.formula, step.stable),
        ("lambda_max_error", "λmax error", step.lambda_max_error),
        ("gradient_limit", "2 g·g/g·Hg", step.limit),
        ("gradient_best", "best along g", step.limit / 2),
        ("lr", "lr", lr),
        ("lr_over_limit", "lr over its limit", lr / step.stable),
        ("batch_size", "batch size", size),
        ("batch_limit", "limit on such batches", limit),
        ("lr_over_batch_limit", "lr over the limit on such batches", lr / limit),
        ("suggested_lr", "suggested lr", suggested),
        ("lr_lambda_max", "η λmax", lr * step.lambda_max),
        ("predicted_change", "predicted change", step.predicted),
        ("measured_change", "measured change", step.change),
        ("climbs_from", "climbs from this multiple of the step", step.scale if here else math.nan),
    )


def _judge(step: Step, noisy: bool) -> tuple[str, str, bool]:
    bounds = _bounds(step)
    if step.lr is None:
        return f"{bounds}{_HERE}", "", False
    if step.lr == 0:
        return f"lr 0: nothing moves, as at the ends of a schedule; {bounds}", "", False
    ratio = step.lr / step.stable
    if step.fixed_length and not (step.climbs and step.change > USUAL_RISE * step.loss):
        return _fixed_length(step, ratio)
    if _at_the_edge(step):
        return _edge(step, ratio)
    if step.climbs:
        return _climbing(step, noisy)
    if math.isnan(ratio):
        return (
            f"lr {step.lr:g}: this step lowers the loss; what repeated steps can bear "
            f"{_why_unknown(step)}",
            "",
            False,
        )
    if ratio > 1:
        return _above_the_limit(step, ratio)
    if math.isfinite(step.stable):
        bounds = f"safe at this point: the limit is {_limit(step)}"
    return f"lr {step.lr:g} is {bounds}{_HERE}", "", False


_HERE = "; far from a minimum this says nothing about the next hundred steps"


def _bounds(step: Step) -> str:
    """Up to which lr steps are safe, at this point."""
    if math.isnan(step.stable):
        return f"what repeated steps can bear {_why_unknown(step)}"
    if math.isinf(step.stable):
        return "safe at this point: nothing curves upwards, so curvature sets no limit"
    return f"safe at this point up to lr {_limit(step)}"


def _off(step: Step) -> str:
    """The prediction beside the measured change, where it misses by more than it predicts."""
    if not (FAILS < step.remainder < math.inf and math.isfinite(step.change)):
        return ""
    times = abs(step.change / step.predicted)
    if step.change * step.predicted < 0:
        how = "the other way"
    else:
        how = f"{words.plain(times)} times as much" if times > 1 else f"{times:.2g} of it"
    return (
        f"; curvature predicts that this step changes the loss by {step.predicted:.2g}, measured "
        f"is {step.change:.2g}, {how}: trust the measured one"
    )


def _on_batches(
    step: Step, batches: BatchStability, claim: str, advice: str
) -> tuple[str, str, bool]:
    """The claim that names the batch size, where the limit is known and a step is made."""
    limit = step.stable / batches.noise_factor
    if step.lr is None or step.lr == 0 or not math.isfinite(limit):
        return claim, advice, False
    size, ratio = batches.batch_size, step.lr / limit
    of = f"batches of {size} example{'s' if size > 1 else ''}"
    by = f"lr {_number(limit)}, {batches.noise_factor:.3g} times below that of the whole data"
    if ratio > 1 and batches.noise_factor > NOISY:
        return (
            f"lr {step.lr:g} is {ratio:.2g} times what {of} can bear near a "
            f"minimum ({by}): on the whole data it is {step.lr / step.stable:.2f} of the limit "
            f"{step.formula}, but the noise of the batches makes errors grow",
            f"use lr below {_number(limit)}, or larger batches{_by_whom(batches)}",
            ratio > LOST,
        )
    if batches.noise_factor <= NOISY:
        return f"{claim}; {of} can bear nearly as much", advice, False
    return f"{claim}; {of} can bear {by}", advice, False


def _by_whom(batches: BatchStability) -> str:
    """Which example makes the noise, where one makes much of it."""
    if batches.largest_share < ALONE:
        return ""
    share = f"{batches.largest_share:.0%}"
    return f"; example {batches.largest_example} makes {share} of the noise: look at it"


def _why_unknown(step: Step) -> str:
    return step.unknown or f"is known once {step.optimizer} has made steps"


def _at_the_edge(step: Step) -> bool:
    """Whether lr hovers about its limit, and this step does not raise the loss unusually."""
    low, high = EDGE_ADAPTIVE if step.adaptive else EDGE
    if step.lr is None or not low <= step.lr / step.stable <= high:
        return False
    return not step.climbs or (step.slope <= 0 and step.change <= USUAL_RISE * step.loss)


def _unlike_training(step: Step) -> bool:
    """Whether training, with the statistics of its batches, may well bear this step."""
    if step.lr is None or not math.isfinite(step.change):
        return False
    return step.running_statistics and step.lr <= RUNNING * step.stable


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
    claim = f"lr {step.lr:g} is at the edge of stability: {ratio:.2f} of the limit {_limit(step)}"
    if not step.climbs:
        advice = (
            "no action needed: usual for full-batch training; a lower lr descends more smoothly"
        )
        return claim, advice, False
    return (
        f"{claim}; this step climbs a little",
        "usual for full-batch training, if the loss falls over tens of steps; if it rises step "
        f"after step, {_smaller(step)}",
        False,
    )


def _fixed_length(step: Step, ratio: float) -> tuple[str, str, bool]:
    limit = f"{_number(step.stable)} = {step.formula} over steps d of its norm ball"
    if ratio < EDGE_ADAPTIVE[0]:
        return f"lr {step.lr:g} is safe with this gradient: steps descend below {limit}", "", False
    return (
        f"lr {step.lr:g} is {ratio:.2g} times what this gradient allows ({limit}): "
        f"{step.optimizer}'s steps keep their length, and hover about a loss that they cannot "
        "go below",
        "usual where the loss has stopped falling; a lower lr, as schedules end with, goes on",
        False,
    )


def _climbing(step: Step, noisy: bool) -> tuple[str, str, bool]:
    if step.slope > 0:
        return _uphill(step, noisy)
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


def _uphill(step: Step, noisy: bool) -> tuple[str, str, bool]:
    why = step.uphill or "it comes from earlier gradients, not from this one"
    if "maximize" in why:
        advice = "leave out maximize, or give the problem that is to be minimised"
        return f"this step climbs because it points uphill: {why}", advice, True
    if step.change <= (DRIFT_NOISY if noisy else DRIFT) * step.loss:
        return (
            f"this step points uphill a little on the data given, and raises the loss by "
            f"{step.change / step.loss:.1g} of it: {why}",
            "no action needed: usual where the noise of batches is as large as the slope",
            False,
        )
    return (
        f"this step climbs because it points uphill: {why}",
        "the run may already have blown up: check an earlier checkpoint; less momentum or weight "
        "decay, or a warm-up; a smaller lr climbs more slowly",
        True,
    )


def _over(step: Step, ratio: float) -> str:
    return f"lr {step.lr:g} is {words.plain(ratio)} times the limit {_limit(step)}"


def _above_the_limit(step: Step, ratio: float) -> tuple[str, str, bool]:
    if step.adaptive:  # measured: 10 to 300 times in healthy runs, where a feature is rare
        return (
            f"{_over(step, ratio)}, but this step lowers the loss: {step.optimizer} shortens steps "
            "that oscillate, so this limit warns and no more",
            f"no action needed while the loss falls; if it jumps, lr below "
            f"{_number(step.stable)}, or a larger eps",
            False,
        )
    if step.remainder <= QUADRATIC or math.isnan(step.change):
        return (
            f"{_over(step, ratio)}: the sharpest direction oscillates and grows",
            f"use lr below {_number(step.stable)}, or begin there and warm up",
            True,
        )
    return (
        f"{_over(step, ratio)}, "
        "but this step goes farther than curvature sees, and the loss falls: whether the next "
        "ones do is not known",
        f"watch the loss: if it jumps, lr below {_number(step.stable)}",
        False,
    )


def _smaller(step: Step) -> str:
    if step.lr is not None and math.isfinite(step.scale) and step.scale > 0:
        return f"use lr {step.lr * step.scale / 2:.3g}, the best along this step, or less"
    return f"use lr below {_number(step.stable)}"


def _limit(step: Step) -> str:
    """The largest stable learning rate, and what it is."""
    return f"{_number(step.stable)} = {step.formula.replace('(2)/', '2/')}"


def _number(value: float) -> str:
    return "no finite limit" if math.isinf(value) else f"{value:.4g}"

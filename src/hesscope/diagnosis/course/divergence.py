"""Has the run diverged, or is it about to?"""

from __future__ import annotations

import math

from torch import Tensor

from hesscope.diagnosis import words
from hesscope.diagnosis.course.trends import against, is_adaptive, of_steps, together
from hesscope.results.history import History
from hesscope.results.verdict import Confidence, Verdict, known

SOURCE = (
    "linear stability: LeCun, Bottou, Orr and Müller 1998, section 4; spikes of adaptive "
    "optimisers, from curvature along the step: Bai et al. 2025"
)
# lr·sharpness over its limit, beyond what the edge of stability shows (see `edge`).
OVER, OVER_ADAPTIVE = 1.5, 2.0
LAST = 3  # checks, all of which must show it
RISING = 4  # checks of a loss that rises at each
STAYS, LOST = 8, 0.5  # checks, and the share of all that had been won, that are a loss for good
REGAINED = 0.1  # of what had been won, and the best loss once more: then the loss is rising
CAUGHT = (
    "a curvature that falls until lr is below its limit, and a loss that follows it down: then "
    "it was a catapult"
)
FALLING = 0.8  # λmax over what it was at the first of these checks: it may still be caught


def divergence(history: History) -> Verdict | None:
    """The verdict "divergence": that it has happened, or that it is ahead.

    It has happened where the loss is not finite and has not become so again, or where half of what
    had been won is lost, and the loss at least twice its best, at each of the last eight checks. It
    is ahead where the loss has risen at each of the last four, to twice its best and by a tenth of
    what had been won; or, before that, where lr·sharpness was over 1.5 times its limit (2 for
    adaptive optimisers, whose limit is soft) at each of the last three and the curvature along each
    of these steps outweighed its slope, so that they climb.

    >>> from hesscope.results.history import Event
    >>> lost = Event(30, "not finite", "the loss of the probe data is nan")
    >>> divergence(History.of({"loss": {0: 1.0, 20: 8.0}}, events=(lost,))).claim
    'diverged: the loss is not finite at step 30'
    """
    lost = _lost(history)
    if not math.isnan(lost):
        return _diverged(history, lost)
    for seen, tell in ((_given_up, _gone), (_rising, _rises), (_climbing, _climbs)):
        steps = seen(history)
        if len(steps):
            return tell(history, steps)
    return None


def _lost(history: History) -> float:
    """The first step of those at the end without a finite loss; NaN where it is finite."""
    told = history.get("train_loss")
    bad = [int(step) for step in told.steps[~told.values.isfinite()]]
    bad += [event.step for event in history.events if event.kind == "not finite"]
    good = [
        int(s.steps[-1]) for key in ("loss", "train_loss") if len(s := history.get(key).finite())
    ]
    after = [step for step in bad if step >= max(good, default=-1)]
    return min(after, default=math.nan)


def _diverged(history: History, lost: float) -> Verdict:
    since, over = _onset(history)
    claim = f"diverged: the loss is not finite at step {int(lost)}"
    first = int(lost if math.isnan(since) else since)
    if math.isnan(over):
        advice = "go on from the last checkpoint with a finite loss, with half the lr"
    elif over > 1:
        claim += (
            f"; the learning rate was too large since step {first}, up to {words.of_stable(over)}"
        )
        advice = "go on from a checkpoint before that step with a lower lr, or a longer warm-up"
    else:
        claim += (
            "; the learning rate does not explain it: as this began, it was at most "
            f"{words.of_stable(over)}"
        )
        advice = (
            "look at the batches of these steps and at overflow in low precision, and check more "
            "often: between two checks the curvature may have jumped"
        )
    return _verdict(
        claim,
        advice,
        [
            ("first_step", "from step", first),
            ("last_step", "to step", lost),
            ("sharpness_over_limit", "lr over its limit, as it began", over),
            ("loss", "last finite loss", history.get("loss").finite().last),
        ],
        "a loss that becomes finite again: then it was one bad batch",
    )


def _onset(history: History) -> tuple[float, float]:
    """When lr·sharpness went over its limit as the loss began to rise, and how far it was by then.

    Later checks are left out: what is measured on the way to infinity says nothing of its cause.
    """
    steps, over, loss = together(history, "sharpness_over_limit", "loss")
    if not len(steps):
        return math.nan, math.nan
    calm = int((loss < _high(loss, REGAINED)).nonzero().flatten()[-1]) if len(loss) > 1 else 0
    around = slice(max(calm - 1, 0), calm + 2)
    beyond = (over[around] > 1).nonzero().flatten()
    since = float(steps[around][beyond[0]]) if len(beyond) else math.nan
    return since, float(over[around].max())


def _high(loss: Tensor, share: float) -> float:
    """The loss with which this share of what had been won is lost, and that is twice the best."""
    best = float(loss.min())
    return best + max(share * (float(loss[0]) - best), abs(best), math.ulp(best))


def _rising(history: History) -> Tensor:
    """The steps at the end at which the loss rises, if it does so in earnest."""
    steps, loss = together(history, "loss")
    if len(loss) < RISING or not bool((loss[-RISING:].diff() > 0).all()):
        return steps[:0]
    if float(loss[-1]) < _high(loss, REGAINED):
        return steps[:0]
    falls = (loss.diff() <= 0).nonzero().flatten()
    return steps[int(falls[-1]) + 1 if len(falls) else 0 :]


def _given_up(history: History) -> Tensor:
    """The steps at the end at which half of what had been won is lost, if they are many."""
    steps, loss = together(history, "loss")
    if len(loss) < STAYS:
        return steps[:0]
    low = (loss < _high(loss, LOST)).nonzero().flatten()
    after = steps[int(low[-1]) + 1 :]
    return after if len(after) >= STAYS else steps[:0]


def _climbing(history: History) -> Tensor:
    """The last steps, if lr·sharpness is over its limit and the curvature makes them climb."""
    keys = ("sharpness_over_limit", "predicted_change", "update_curvature", "update_norm")
    steps, over, predicted, curvature, size = (x[-LAST:] for x in together(history, *keys))
    limit = OVER_ADAPTIVE if is_adaptive(history) else OVER
    slope = predicted - curvature * size.square() / 2
    holds = (over > limit) & (slope < 0) & (predicted > 0)
    return steps if len(steps) == LAST and bool(holds.all()) else steps[:0]


def _gone(history: History, steps: Tensor) -> Verdict:
    at, over = together(history, "sharpness_over_limit")
    around = over[(at <= steps[0])][-LAST:]
    highest = float(around.max()) if len(around) else math.nan
    claim = f"what was learned is lost: since step {int(steps[0])} the loss stays high"
    if highest > 1:
        claim += f", after the learning rate was {words.of_stable(highest)}"
    return _verdict(
        claim,
        _advice(highest, int(steps[0])),
        [*_evidence(history, steps), ("highest", "highest before", highest)],
        "a loss that falls below half of where it is, at the same lr",
    )


def _rises(history: History, steps: Tensor) -> Verdict:
    over, sharpness = _over(history, steps), _values(history, "lambda_max", steps)
    claim = f"divergence ahead: the loss rises since step {int(steps[0])}"
    if not math.isnan(over):
        claim += f", and the learning rate is {words.of_stable(over)}"
    confidence: Confidence = "measured"
    if len(sharpness) > 1 and sharpness[-1] <= FALLING * sharpness[0]:
        claim = (
            f"undecided: {claim}; but the curvature falls with it, so the run may catch itself "
            "(a catapult)"
        )
        confidence = "undecided"
    evidence = _evidence(history, steps)
    return _verdict(claim, _advice(over, int(steps[0])), evidence, CAUGHT, confidence)


def _climbs(history: History, steps: Tensor) -> Verdict:
    over = _over(history, steps)
    claim = (
        f"divergence ahead: the learning rate is {words.of_stable(over)}, and the steps themselves "
        "go uphill: they overshoot where the loss curves"
    )
    return _verdict(claim, _advice(over, int(steps[0])), _evidence(history, steps), CAUGHT)


def _values(history: History, key: str, steps: Tensor) -> Tensor:
    return history.get(key).finite().between(int(steps[0]), int(steps[-1])).values


def _over(history: History, steps: Tensor) -> float:
    return _last(_values(history, "sharpness_over_limit", steps))


def _evidence(history: History, steps: Tensor) -> list[tuple[str, str, float]]:
    loss = _values(history, "loss", steps)
    return [
        *of_steps(steps),
        ("sharpness_over_limit", "lr over its limit", _over(history, steps)),
        ("loss_first", "loss at first", float(loss[0]) if len(loss) else math.nan),
        ("loss", "loss now", _last(loss)),
    ]


def _advice(over: float, first: int) -> str:
    if over > 1:
        return (
            f"lower lr to less than {1 / over:.2g} of what it is, and go on from a checkpoint of "
            f"step {first} or before"
        )
    return (
        "the learning rate does not explain it: look at the batches and labels of these steps and "
        f"at the weight decay; a checkpoint of step {first} is from before"
    )


def _last(values: Tensor) -> float:
    return float(values[-1]) if len(values) else math.nan


def _verdict(
    claim: str,
    advice: str,
    evidence: list[tuple[str, str, float]],
    contradiction: str,
    confidence: Confidence = "measured",
) -> Verdict:
    return Verdict(
        key="divergence",
        name="divergence",
        claim=claim,
        **known(*evidence),
        assumptions=("the probe data stands for what is trained on", against(contradiction)),
        confidence=confidence,
        advice=advice,
        source=SOURCE,
        finding=confidence != "undecided",
    )

"""Was the learning rate raised faster than the sharpness could fall?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from hesscope.diagnosis import words
from hesscope.diagnosis.course.trends import against, is_adaptive, of_steps, together
from hesscope.diagnosis.learning_rate import below_the_limit
from hesscope.results.history import History
from hesscope.results.verdict import Verdict, known

SOURCE = "Kalra and Barkeshli 2024; Gilmer, Ghorbani, Garg et al. 2022"
STARTED = 0.5  # of the largest lr, at the first check, or less: there is a warm-up
WARM = 0.99  # of the largest lr: it is over
AFTER = 2.0  # times its length, within which its end is to blame
AT_LEAST = 10  # steps after it, where it is short or there is none
OVER, OVER_ADAPTIVE = 1.05, 1.2  # of its limit, for lr·sharpness where the loss rises
SPIKE = 1.5  # the loss at its peak over the best before
REGAINED = 0.1  # of all the loss won by then


@dataclass(frozen=True)
class _Spike:
    """From the last check before lr·sharpness went over its limit to the peak of the loss."""

    steps: Tensor
    over: float  # the largest of lr·sharpness on the way
    loss: tuple[float, float]  # the best before, and at the peak


def warm_up(history: History) -> Verdict | None:
    """The verdict "warm-up too short".

    While lr rises to its largest value, or soon after, lr·sharpness goes over its limit and the
    loss rises to 1.5 times its best or more. Where lr does not rise there is no warm-up, and only
    for adaptive optimisers is that called too short: their first steps are preconditioned by the
    little they have seen.

    >>> rows = {"lr": [0, 0.5, 1, 1, 1, 1], "sharpness_over_limit": [0, 0.7, 2, 1.5, 0.9, 0.9]}
    >>> rows["loss"] = [2, 1.9, 1.8, 4, 3, 1]
    >>> warm_up(History.of({k: dict(enumerate(v)) for k, v in rows.items()})).claim
    'warm-up too short: lr reached 1 at step 2, 2 times what is stable, and the loss
    rose to 2.2 times its best'
    """
    steps, lr, over, loss = together(history, "lr", "sharpness_over_limit", "loss")
    if len(steps) < 3 or float(lr.max()) <= 0:
        return None
    end = int((lr >= WARM * lr.max()).nonzero()[0])
    rises = float(lr[0]) <= STARTED * float(lr.max())
    if not rises and not is_adaptive(history):
        return None
    warm = float(steps[end]) if rises else float(steps[0])
    blamed = steps <= warm + max(AFTER * (warm - float(steps[0])), AT_LEAST)
    spike = _spike(history, steps[blamed], over[blamed], loss[blamed])
    return None if spike is None else _verdict(spike, warm, float(lr.max()), rises=rises)


def _spike(history: History, steps: Tensor, over: Tensor, loss: Tensor) -> _Spike | None:
    limit = OVER_ADAPTIVE if is_adaptive(history) else OVER
    above = (over > limit).nonzero().flatten()
    if not len(above):
        return None
    start = int(above[0])
    peak = start + int(loss[start:].argmax())
    best, highest = float(loss[: start + 1].min()), float(loss[peak])
    won = float(loss[0]) - best
    if best <= 0 or highest < SPIKE * best or highest - best < REGAINED * won or peak == start:
        return None
    return _Spike(steps[start : peak + 1], float(over[start : peak + 1].max()), (best, highest))


def _verdict(spike: _Spike, warm: float, lr: float, *, rises: bool) -> Verdict:
    best, highest = spike.loss
    start = f"warm-up too short: lr reached {lr:g} at step {int(warm)}"
    if not rises:
        start = f"no warm-up: lr was {lr:g} from the start"
    length = int(spike.steps[0]) if rises else 0
    return Verdict(
        key="warm_up",
        name="warm-up",
        claim=f"{start}, {words.of_stable(spike.over)}, and the loss rose to {highest / best:.2g} "
        "times its best",
        **known(
            *of_steps(spike.steps),
            ("warm_up_steps", "steps of warm-up", warm),
            ("lr", "largest lr", lr),
            ("sharpness_over_limit", "lr over its limit", spike.over),
            ("loss_first", "best loss before", best),
            ("loss_peak", "loss at its peak", highest),
        ),
        assumptions=(
            "the curvature falls under a slowly rising lr, as it does from most initialisations",
            against("the same peak with a warm-up four times as long"),
        ),
        advice=_advice(spike.over, length, lr),
        source=SOURCE,
        finding=True,
    )


def _advice(over: float, length: int, lr: float) -> str:
    longer = math.ceil(max(2.0, over) * max(length, 50))
    stable = lr / over
    return (
        f"warm up over {longer} steps or more, or keep lr below {stable:.2g} "
        f"(suggested: {below_the_limit(stable):.2g})"
    )

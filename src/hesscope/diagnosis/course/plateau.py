"""Is training on a plateau: no progress, although the gradient is no noise and no minimum near?"""

from __future__ import annotations

import math

from torch import Tensor

from hesscope.diagnosis.course.noise_floor import is_of_batches
from hesscope.diagnosis.course.stall import LITTLE, over_noise, stalled
from hesscope.diagnosis.course.trends import against, median, of_steps, together, trend
from hesscope.results.history import History
from hesscope.results.verdict import Verdict, known

SOURCE = "Dauphin et al. 2014; bouncing between walls: Xing, Arpit, Tsirigotis and Bengio 2018"
VISIBLE = 2.0  # standard errors, from which on a gradient is more than luck
ARRIVED = 1e-3  # of its largest: a gradient below may as well be that of a minimum
LEFT = 1e-2  # of what has been won: a loss below has been learned, however it jumps down there
CONVERGING, ONE_WAY = 1.5, 0.5  # the gradient shrinks by this factor, with this Kendall's tau
NEGATIVE = 1e-2  # of λmax, from which on λmin is a way down
NEAR, FAR = 0.8, 0.1  # of its limit: lr·sharpness that bounces, and that creeps


def plateau(history: History) -> Verdict | None:
    """The verdict "plateau".

    Over the last half of the run the loss falls by less than 2 %, but the gradient stays: it is
    above twice its noise over the data, it is not that of batches which undo each other, and it
    does not shrink from check to check as it does towards a minimum. And there is something to be
    won: along the gradient 2 % of the loss or more, ½|g|⁴/g·Hg, or any where g·Hg or λmin is
    negative, as at no minimum. Where g·Hg is not known, a gradient above a thousandth of the
    largest stands for it. A loss below a hundredth of what has been won is no plateau.

    >>> flat, up = {t: 1.0 for t in range(20)}, {t: 0.5 for t in range(20)}
    >>> plateau(History.of({"loss": flat, "gradient_norm": up})).claim
    'a plateau since step 10: the loss does not fall, although the gradient stays at 0.5'
    """
    steps = stalled(history)
    if not len(steps):
        return None
    here = history[int(steps[0]) : int(steps[-1]) + 1]
    at, g = together(here, "gradient_norm")
    if len(g) < 2 or over_noise(history, steps) <= VISIBLE:
        return None
    if is_of_batches(history, steps) or _converging(at, g):
        return None
    downward = _downward(here)
    if _has_learned(history, here) or (not downward and _has_arrived(history, here)):
        return None
    return _verdict(here, steps, median(g), downward=downward)


def _converging(steps: Tensor, g: Tensor) -> bool:
    found = trend(steps, g)
    return found.tau <= -ONE_WAY and found.first >= CONVERGING * found.last


def _has_learned(history: History, here: History) -> bool:
    """Whether what is left of the loss is little beside what has been won."""
    left, first = _median(here, "loss"), float(history["loss"].finite().values[0])
    return abs(left) <= LEFT * (first - left)


def _has_arrived(history: History, here: History) -> bool:
    """Whether little is to be won along the gradient, as near a minimum."""
    _, g, curvature, loss = together(here, "gradient_norm", "gradient_curvature", "loss")
    if len(g):
        return median(g.square() / (2 * curvature.abs()) - LITTLE * loss.abs()) < 0
    largest = history["gradient_norm"].finite().values.max()
    return median(here["gradient_norm"].finite().values) < ARRIVED * float(largest)


def _downward(here: History) -> bool:
    """Whether there is negative curvature, in the spectrum or along the gradient."""
    _, lowest, top = together(here, "lambda_min", "lambda_max")
    along = here.get("gradient_curvature").finite().values
    return (len(lowest) > 0 and bool(median(lowest + NEGATIVE * top.abs()) < 0)) or (
        len(along) > 0 and median(along) < 0
    )


def _verdict(here: History, steps: Tensor, g: float, *, downward: bool) -> Verdict:
    over, in_top = _median(here, "sharpness_over_limit"), _median(here, "gradient_in_top")
    why, advice = _cause(over, in_top, downward=downward)
    return Verdict(
        key="plateau",
        name="plateau",
        claim=f"a plateau since step {int(steps[0])}: the loss does not fall, although the "
        f"gradient stays at {g:.2g}{why}",
        **known(
            *of_steps(steps),
            ("loss", "loss", _median(here, "loss")),
            ("gradient_norm", "gradient norm", g),
            ("gradient_noise", "its noise over the data", _median(here, "gradient_noise")),
            ("sharpness_over_limit", "lr over its limit", over),
            ("gradient_in_top", "share of the gradient along the sharpest direction", in_top),
            ("gradient_curvature", "g·Hg/g·g", _median(here, "gradient_curvature")),
            ("lambda_min", "λmin", _median(here, "lambda_min")),
        ),
        assumptions=(
            "the loss of the probe data",
            against("a loss that falls by itself within as many steps again"),
        ),
        advice=advice,
        source=SOURCE,
        finding=True,
    )


def _cause(over: float, in_top: float, *, downward: bool) -> tuple[str, str]:
    if downward:
        return (
            "; some directions go downhill from it (negative curvature)",
            "hs.escape(problem) follows the negative curvature; a larger lr leaves it sooner",
        )
    if over >= NEAR and in_top >= 0.5:
        return (
            "; most of it lies along the sharpest direction, in which the steps bounce",
            "lower lr: the bouncing dies out, and the other directions show",
        )
    if over <= FAR:
        return (
            f"; the steps are short, {over:.1g} of what is stable",
            f"raise lr: up to {1 / over:.2g} times is stable here" if over > 0 else "raise lr",
        )
    return (
        "",
        "hs.diagnose(problem, optimizer) tells unequal curvatures, dead layers and saddles apart",
    )


def _median(here: History, key: str) -> float:
    values = here.get(key).finite().values
    return median(values) if len(values) else math.nan

"""Does the sharpness rise as the loss falls?"""

from __future__ import annotations

import math

from torch import Tensor

from hesscope.diagnosis.course.edge import arrival
from hesscope.diagnosis.course.trends import (
    SHORTEST,
    Trend,
    against,
    of_steps,
    smooth,
    together,
    trend,
)
from hesscope.results.history import History
from hesscope.results.verdict import Verdict, known

SOURCE = "Cohen, Kaur, Li, Kolter and Talwalkar 2021, section 3.1; Jastrzebski et al. 2020"
RISE = 1.5  # of the median of the first third of the checks to that of the last
STEADY = 0.6  # Kendall's tau, from which on it goes one way


def sharpening(history: History) -> Verdict | None:
    """The verdict "progressive sharpening".

    From its lowest value to the arrival at the edge of stability, or to now, λmax rises by half or
    more, steadily (Kendall's tau at least 0.6), while the loss falls.

    >>> rises, falls = {t: 1.0 + t for t in range(9)}, {t: 9.0 - t for t in range(9)}
    >>> sharpening(History.of({"lambda_max": rises, "loss": falls})).claim
    'the curvature rises as the loss falls: λmax from 2 to 8, steps 0 to 8'
    """
    steps, sharpness, loss = together(history, "lambda_max", "loss")
    before = steps <= arrival(history)
    if int(before.sum()) < SHORTEST:
        return None
    steps, sharpness, loss = steps[before], sharpness[before], loss[before]
    lowest = int(smooth(sharpness).argmin())
    steps, sharpness, loss = steps[lowest:], sharpness[lowest:], loss[lowest:]
    rise, fall = trend(steps, sharpness), trend(steps, loss)
    short = len(steps) < SHORTEST or rise.last <= 0
    if short or rise.tau < STEADY or rise.ratio < RISE or fall.last >= fall.first:
        return None
    return _verdict(history, steps, rise)


def _verdict(history: History, steps: Tensor, rise: Trend) -> Verdict:
    first, last = int(steps[0]), int(steps[-1])
    over = history.get("sharpness_over_limit").finite().between(first, last)
    at_edge = math.isfinite(arrival(history))
    verb = "rose as the loss fell" if at_edge else "rises as the loss falls"
    return Verdict(
        key="progressive_sharpening",
        name="sharpening",
        claim=f"the curvature {verb}: λmax from {rise.first:.3g} to {rise.last:.3g}, steps {first} "
        f"to {last}",
        **known(
            *of_steps(steps),
            ("lambda_max_first", "λmax at first", rise.first),
            ("lambda_max_last", "λmax at last", rise.last),
            ("tau", "Kendall's tau", rise.tau),
            ("sharpness_over_limit", "lr over its limit", over.last),
        ),
        assumptions=(
            "λmax of the probe data",
            against("a fall of λmax at the same lr before lr reaches its limit"),
        ),
        advice=_advice(over.last, at_edge=at_edge),
        source=SOURCE,
    )


def _advice(over: float, *, at_edge: bool) -> str:
    if at_edge:
        return "no action needed: it ended where the learning rate met what is stable"
    if math.isnan(over):
        return "no action needed: expect it to go on until the learning rate meets what is stable"
    return (
        f"no action needed: lr is {over:.2g} of what is stable here, and the curvature goes on "
        "rising until it meets that limit; a schedule that raises lr later has less room than now"
    )

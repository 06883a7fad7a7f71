"""Has training stopped where nothing has been learned? Then a restart or a kick is worth a try."""

from __future__ import annotations

import math

from hesscope.diagnosis.critical_point import PLATEAU
from hesscope.results.density import SpectralDensity
from hesscope.results.descent import Curvature, Descent
from hesscope.results.verdict import Confidence, Verdict, known

SOURCE = (
    "kicks: Ge, Huang, Jin and Yuan 2015, algorithm 1; second-order conditions: Nocedal and Wright "
    "2006, theorem 2.4"
)
CHANCE = 0.95  # of the loss of the best constant prediction: above, next to nothing is learned
HIGH = 0.5
PERFECT = 1e-9  # a constant that fits all targets but for rounding says nothing about a network


def stuck(
    loss: float,
    constant_loss: float,
    descent: Descent,
    curvature: Curvature,
    density: SpectralDensity | None = None,
) -> Verdict:
    """The verdict "stuck high": a minimum or plateau at the level of the best constant prediction.

    Stopped means a gradient at its rounding (or the user's tolerance), or a step that lowers the
    loss by less than a millionth. It is a finding where the loss is then above 95 % of that of the
    best constant prediction; between 50 and 95 % it is told.

    The kick that is advised has the radius r at which the quadratic model of a random direction,
    L + r² tr H/2n, has doubled the loss: descent from a much smaller one falls back to the same
    place. Where curvature is negative on average no such radius exists.

    Undecided where a constant fits all targets, or losses are negative: there is no scale then.

    Args:
        loss: the mean loss.
        constant_loss: of the best constant prediction.
        descent: the slope.
        curvature: the ends of the spectrum.
        density: of the Hessian, for its trace.

    >>> bowl = Curvature(2.0, 0.0, 1.0, 0.0, lower=1.0, upper=2.0, noise=1e-12, delta=0.001)
    >>> stuck(0.69, 0.69, Descent(0.0, math.nan, 1e-9), bowl).claim
    "stuck high: a minimum, and the loss is at chance level, 100 % of the best constant answer's"
    """
    measures = loss >= 0 and constant_loss > PERFECT * loss
    share = loss / constant_loss if measures else math.nan
    radius = _kick_radius(loss, density)
    claim, confidence, advice, finding = _judge(share, radius, descent, curvature)
    return Verdict(
        key="stuck_high",
        name="stuck high",
        claim=claim,
        **known(
            ("loss", "loss", loss),
            ("constant_loss", "loss of the best constant prediction", constant_loss),
            ("share", "loss / that", share),
            ("kick_radius", "kick that doubles the loss", radius),
        ),
        assumptions=("the best constant prediction is that of this data and this loss",),
        confidence=confidence,
        advice=advice,
        source=SOURCE,
        finding=finding,
    )


def _judge(
    share: float, radius: float, d: Descent, c: Curvature
) -> tuple[str, Confidence, str, bool]:
    if math.isnan(share):
        claim = (
            "undecided: the best constant answer has a loss of zero or less, so it is no measure"
        )
        return claim, "undecided", "", False
    times = f"{100 * share:.0f} %" if share < 2 else f"{share:.2g} times that"
    at = "at chance level, " if CHANCE <= share <= 1 / CHANCE else ""
    level = f"the loss is {at}{times} of the best constant answer's"
    where = _stopped(d, c)
    if not where and d.gradient_norm <= d.gradient_noise:
        return f"no: the gradient is below its sampling noise; {level}", "measured", "", False
    if not where:
        return f"no: a step still lowers the loss; {level}", "measured", "", False
    if share < HIGH:
        return f"no: {where}, and {level}", "measured", "", False
    if share < CHANCE:
        return f"stopped half way: {where}, and {level}", "measured", _advice(radius, c), False
    confidence: Confidence = "certified" if c.definite else "measured"
    return f"stuck high: {where}, and {level}", confidence, _advice(radius, c), True


def _stopped(d: Descent, c: Curvature) -> str:
    """What kind of place descent has stopped at; empty where it goes on."""
    if d.gradient_norm <= max(d.rounding, d.tolerance):
        return "a saddle" if c.negative else "a minimum" if c.definite else "a flat critical point"
    if d.gradient_norm > d.gradient_noise and d.progress < PLATEAU:
        return "a plateau"
    return ""


def _advice(radius: float, c: Curvature) -> str:
    if c.negative:
        return "hs.escape(problem) moves down where the loss curves downhill; else restart"
    kick = "a kick of a tenth of the norm of the weights"
    if math.isfinite(radius):
        kick = f"hs.kick(problem, {radius:.2g})"
    return (
        "start again from other weights (see the verdict initialisation), or move away by "
        f"{kick} and descend again; if both end at this loss, the inputs say nothing more about "
        "the targets to this model"
    )


def _kick_radius(loss: float, density: SpectralDensity | None) -> float:
    """√(2 L n/tr H), with tr H/n the mean of the density; NaN where that is not positive."""
    mean = math.nan if density is None else float(density.nodes @ density.weights)
    return math.sqrt(2 * loss / mean) if mean > 0 and loss > 0 else math.nan

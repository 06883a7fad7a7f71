"""Is the step right for the curvature? The limits of gradient descent, here and in general."""

from __future__ import annotations

import math

from hesscope.results.verdict import Confidence, Verdict

SOURCE = (
    "quadratic model: LeCun, Bottou, Orr and Müller 1998, section 4; "
    "edge of stability: Cohen, Kaur, Li, Kolter and Talwalkar 2021"
)
EDGE = 0.1  # η λmax within this share of 2 is called the edge of stability


def step_size(
    g_dot_g: float,
    g_dot_Hg: float,
    lambda_max: float,
    lambda_max_error: float,
    lr: float | None = None,
    measured_change: float = math.nan,
) -> Verdict:
    """The verdict "step size" for gradient descent θ ← θ - η g with learning rate η.

    To second order a step changes the loss by -η g·g + ½ η² g·Hg: it climbs when η exceeds
    2 g·g/g·Hg (no limit when g·Hg <= 0) and gains most at half of that. Repeated steps near a
    minimum are stable below 2/λmax. `measured_change` is L(θ - η g) - L(θ).

    >>> step_size(1.0, 10.0, 10.0, 0.0, lr=0.3).claim
    'too large: at lr 0.3 this step climbs'
    """
    limit = 2 * g_dot_g / g_dot_Hg if g_dot_Hg > 0 else math.inf
    stable = 2 / lambda_max if lambda_max > 0 else math.inf
    evidence = {"2/λmax": stable, "2 g·g/g·Hg": limit, "best along g": limit / 2}
    evidence["λmax error"] = lambda_max_error
    if lr is not None:
        evidence["η λmax"] = lr * lambda_max
        evidence["predicted change"] = -lr * g_dot_g + lr**2 * g_dot_Hg / 2
        evidence["measured change"] = measured_change
    evidence = {name: value for name, value in evidence.items() if not math.isnan(value)}
    claim, advice, finding = _judge(lr, limit, stable, measured_change)
    confidence: Confidence = "measured"
    return Verdict(
        name="step size",
        claim=claim,
        evidence=evidence,
        assumptions=(
            "plain gradient descent on the whole data, without momentum",
            "2/λmax is sharp near a minimum; far from one it is only a safe side",
        ),
        confidence=confidence,
        advice=advice,
        source=SOURCE,
        finding=finding,
    )


def _judge(
    lr: float | None, limit: float, stable: float, measured_change: float
) -> tuple[str, str, bool]:
    bounds = f"unstable above {_number(stable)} = 2/λmax; along this gradient {_number(limit)}"
    if lr is None:
        return bounds, "", False
    if measured_change > 0 or (math.isnan(measured_change) and lr > limit):
        return (
            f"too large: at lr {lr:g} this step climbs",
            f"use at most {_number(limit / 2)}",
            True,
        )
    if lr > limit:
        return (
            f"lr {lr:g} is beyond the quadratic limit {_number(limit)}, yet the loss falls",
            "the quadratic model does not hold over this step; measure at a smaller one",
            False,
        )
    if abs(lr / stable - 1) <= EDGE:
        return (
            f"lr {lr:g} is at the edge of stability: η λmax hovers at 2",
            "usual for full-batch gradient descent; lower lr for a smooth decrease",
            False,
        )
    if lr > stable:
        return (
            f"lr {lr:g} is above 2/λmax = {_number(stable)}: the sharpest direction oscillates",
            f"expect growing oscillations of plain gradient descent near a minimum; lr below "
            f"{_number(stable)} is stable",
            True,
        )
    return f"lr {lr:g} is fine: {bounds}", "", False


def _number(value: float) -> str:
    return "no finite limit" if math.isinf(value) else f"{value:.4g}"

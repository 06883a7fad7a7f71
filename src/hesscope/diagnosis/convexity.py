"""Is the loss convex? A proof that it is not, or how far the points looked at allow it."""

from __future__ import annotations

import math
from typing import Any

from hesscope.results.convexity import ConvexityProbes
from hesscope.results.descent import Curvature
from hesscope.results.verdict import Confidence, Verdict, known

SOURCE = (
    "Boyd and Vandenberghe 2004, section 3.1; lower bound of λmin: van Dorsselaer, Hochstenbach "
    "and van der Vorst 2000"
)


def convexity(curvature: Curvature, probes: ConvexityProbes | None = None) -> Verdict:
    """The verdict "convexity" from the ends of the spectrum, and from other points if there are.

    One direction with v'Hv < 0 beyond rounding, or one chord below the loss, proves that the loss
    is not convex. No number of points proves that it is; the claim then speaks of these points.

    Never a finding: no network is convex, and training does not need it to be.

    Args:
        curvature: at the parameters.
        probes: further points, from `negative_curvature_probes`.

    >>> saddle = Curvature(2.0, 0.0, -1.0, 0.0, lower=-1.1, upper=2.0, noise=1e-12, delta=0.001)
    >>> convexity(saddle).claim
    'not convex: one direction curves downwards, half as strongly as the sharpest curves up'
    """
    points = 1 + (len(probes) if probes is not None else 0)
    claim, confidence, advice = _judge(curvature, points, probes)
    assumptions = ["the mean loss on the given data, as a function of the parameters"]
    if confidence != "proven":
        assumptions.append("kinks (ReLU, hinge) are not seen by second derivatives")
    if confidence == "certified":
        assumptions.append(f"the certificate fails with probability {_risk(curvature, probes):g}")
    return Verdict(
        key="convexity",
        name="convexity",
        claim=claim,
        **_evidence(curvature, points, probes),
        assumptions=tuple(assumptions),
        confidence=confidence,
        advice=advice,
        source=SOURCE,
    )


def _judge(
    c: Curvature, points: int, probes: ConvexityProbes | None
) -> tuple[str, Confidence, str]:
    if c.negative:
        return f"not convex: {_downwards(c)}", "proven", _USUAL
    if probes is not None and probes.proof:
        return (
            f"not convex: no negative curvature was found here, but {probes.proof}",
            "proven",
            _USUAL,
        )
    if c.never_negative and (probes is None or len(probes) == 0 or probes.never_negative):
        where = "at these parameters" if points == 1 else f"at any of the {points} points probed"
        return (
            f"no negative curvature beyond {c.epsilon:.1e} {where}, as on a convex loss; "
            "this does not prove that the loss is convex",
            "certified",
            "",
        )
    advice = "effort='deep', or a larger max_matvecs, narrows this; no action needed"
    if c.never_negative:
        return (
            f"undecided: no negative curvature was found at {points} points, but away from these "
            "parameters it is not excluded",
            "undecided",
            advice,
        )
    return (
        f"undecided: the lowest curvature lies between {c.lower:.2e} and {c.lambda_min:.2e}",
        "undecided",
        advice,
    )


_USUAL = "no action needed: no network is convex"


def _downwards(c: Curvature) -> str:
    if c.upper < 0:
        return "every direction curves downwards"
    if c.lambda_max <= c.noise:
        return "a direction curves downwards, and none was found that curves up"
    share = abs(c.lambda_min) / c.lambda_max
    by = f"{share:.2g} times "
    by = "half " if by == "0.5 times " else "" if by == "1 times " else by
    return f"one direction curves downwards, {by}as strongly as the sharpest curves up"


def _evidence(c: Curvature, points: int, probes: ConvexityProbes | None) -> dict[str, Any]:
    lowest = sag = math.nan
    if probes is not None and len(probes):
        lowest = float(probes.lambda_min[~probes.lambda_min.isnan()].min())
        sag = float(probes.sag[~probes.sag.isnan()].max())
    return known(
        ("lambda_min", "λmin", c.lambda_min),
        ("lambda_min_error", "λmin error", c.lambda_min_error),
        ("lambda_min_bound", "λmin at least", c.lower),
        ("lambda_max", "λmax", c.lambda_max),
        ("lambda_max_error", "λmax error", c.lambda_max_error),
        ("zero_within", "zero within", c.epsilon),
        ("points", "points", float(points)),
        ("other_lambda_min", "lowest curvature at other points", lowest),
        ("above_chord", "most above a chord", sag),
    )


def _risk(c: Curvature, probes: ConvexityProbes | None) -> float:
    return c.delta + (probes.delta if probes is not None and len(probes) else 0.0)

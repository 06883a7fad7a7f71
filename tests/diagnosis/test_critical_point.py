"""Numbers in, claims out: every verdict on where the parameters stand, `undecided` included."""

import math

import pytest

from hesscope.diagnosis.critical_point import critical_point
from hesscope.results.descent import Curvature, Descent

BOWL = {"lambda_min": 1.0, "lower": 0.9}
SADDLE = {"lambda_min": -0.5, "lower": -0.6}
FLAT = {"lambda_min": 1e-9, "lower": -1e-5}
OPEN = {"lambda_min": 1e-9, "lower": -0.3}
PEAK = {"lambda_min": -2.0, "lower": -2.1, "lambda_max": -1.0, "upper": -0.9}

NOTHING = dict.fromkeys(("lambda_min", "lower", "lambda_max", "upper"), 0.0)


def curvature(**known: float) -> Curvature:
    usual = {
        "lambda_max": 2.0,
        "lambda_max_error": 1e-6,
        "lambda_min_error": 1e-6,
        "upper": 2.1,
        "noise": 1e-12,
        "delta": 1e-3,
    }
    return Curvature(**{**usual, **known})


@pytest.mark.parametrize(
    ("gradient", "noise", "ends", "claim", "confidence", "finding"),
    [
        (0.0, math.nan, BOWL, "a strict local minimum", "certified", False),
        (0.0, math.nan, SADDLE, "a strict saddle", "proven", True),
        (
            0.0,
            math.nan,
            FLAT,
            "a minimum to second order: nothing curves downhill by more than 2.0e-04",
            "certified",
            False,
        ),
        (
            0.0,
            math.nan,
            OPEN,
            "a critical point; whether a minimum or a saddle is undecided",
            "undecided",
            False,
        ),
        (0.0, math.nan, PEAK, "a local maximum", "certified", True),
        (0.1, 0.11, SADDLE, "at the noise level", "measured", False),
        (0.1, 0.11, FLAT, "at the noise level", "certified", False),
        (0.1, 0.11, OPEN, "at the noise level", "undecided", False),
        (
            0.1,
            0.08,
            FLAT,
            "undecided: the gradient is 1.2 times its sampling noise",
            "undecided",
            False,
        ),
        (
            0.1,
            0.08,
            SADDLE,
            "undecided: the gradient is 1.2 times its sampling noise",
            "undecided",
            False,
        ),
        (0.1, 0.04, SADDLE, "no: still descending; some directions curve down", "measured", False),
        (0.1, math.nan, FLAT, "no: still descending", "measured", False),
    ],
)
def test_the_claim_follows_from_gradient_and_spectrum(
    gradient, noise, ends, claim, confidence, finding
):
    verdict = critical_point(Descent(gradient, noise, 1e-9), curvature(**ends))
    assert verdict.claim.startswith(claim)
    assert verdict.confidence == confidence
    assert verdict.finding is finding
    assert verdict.evidence["lambda_min"] == ends["lambda_min"]


def test_a_gradient_within_the_users_tolerance_is_critical():
    for tolerance, claim in ((1e-4, "no:"), (1e-2, "a strict")):
        descent = Descent(1e-3, math.nan, 0.0, tolerance)
        assert critical_point(descent, curvature(**BOWL)).claim.startswith(claim)


@pytest.mark.parametrize(
    ("progress", "ends", "claim", "confidence", "finding"),
    [
        (1e-9, FLAT, "a plateau: there is a slope, but a step lowers", "measured", True),
        (1e-9, SADDLE, "a plateau", "proven", True),
        (1e-5, FLAT, "no: still descending", "measured", False),
        (math.nan, FLAT, "no: still descending", "measured", False),
    ],
)
def test_a_slope_that_leads_nowhere_is_a_plateau(progress, ends, claim, confidence, finding):
    verdict = critical_point(Descent(0.1, 0.01, 1e-9, progress=progress), curvature(**ends))
    assert verdict.claim.startswith(claim)
    assert ("a direction that curves downhill leads off it" in verdict.claim) is (
        ends is SADDLE and progress < 1
    )
    assert (verdict.confidence, verdict.finding) == (confidence, finding)


def test_unknown_noise_is_left_out_of_the_evidence():
    verdict = critical_point(Descent(1.0, math.nan, 0.0), curvature(**BOWL))
    assert "its noise over the data" not in verdict.evidence


def test_negative_curvature_below_rounding_noise_proves_nothing():
    c = curvature(lambda_min=-1e-13, lower=-1e-9)
    assert not c.negative
    assert c.never_negative


@pytest.mark.parametrize(
    ("fell", "ends", "claim", "confidence", "finding"),
    [
        (
            0.1,
            FLAT,
            "a degenerate saddle: there is no slope and no curvature that leads down, but",
            "measured",
            True,
        ),
        (0.0, FLAT, "a minimum to second order", "certified", False),
        (0.1, NOTHING, "a degenerate", "measured", True),
        (0.0, NOTHING, "undecided: slope and curvature are zero", "undecided", False),
    ],
)
def test_without_curvature_the_loss_itself_decides(fell, ends, claim, confidence, finding):
    verdict = critical_point(Descent(0.0, math.nan, 1e-9, fell=fell), curvature(**ends))
    assert verdict.claim.startswith(claim)
    assert (verdict.confidence, verdict.finding) == (confidence, finding)

"""Numbers in, claims out: a proof of non-convexity, or words that claim no more than was seen."""

import math

import pytest
import torch

from hesscope.diagnosis.convexity import convexity
from hesscope.results.convexity import ConvexityProbes
from hesscope.results.descent import Curvature

BOWL = {"lambda_min": 1.0, "lower": 0.9}
SADDLE = {"lambda_min": -0.5, "lower": -0.6}
OPEN = {"lambda_min": 1e-9, "lower": -0.3}
PEAK = {"lambda_min": -2.0, "lower": -2.1, "lambda_max": -1.0, "upper": -0.9}
DOWN = {"lambda_min": -2.0, "lower": -2.1, "lambda_max": 0.0, "upper": 0.1}
ROUNDED = {"lambda_min": -1e-13, "lower": -1e-9}


def ends(**known: float) -> Curvature:
    usual = {"lambda_max": 2.0, "lambda_max_error": 1e-6, "lambda_min_error": 1e-6, "upper": 2.1}
    return Curvature(**{**usual, "noise": 1e-12, "delta": 1e-3, **known})


def probed(lambda_min=(0.1, 0.2), lower=(0.0, 0.1), sag=(-1.0, -1.0)) -> ConvexityProbes:
    vector = lambda values: torch.tensor(values, dtype=torch.float64)  # noqa: E731
    each = torch.ones(len(lambda_min)).double()
    return ConvexityProbes(
        distance=0.5,
        lambda_min=vector(lambda_min),
        lower=vector(lower),
        lambda_max=each,
        noise=1e-12 * each,
        sag=vector(sag),
        sag_rounding=1e-12 * each,
        num_matvecs=40,
        num_losses=5,
    )


@pytest.mark.parametrize(
    ("known", "probes", "claim", "confidence"),
    [
        (SADDLE, None, "not convex: one direction curves downwards, 0.25 times as", "proven"),
        (PEAK, None, "not convex: every direction curves downwards", "proven"),
        (DOWN, None, "not convex: a direction curves downwards, and none was found", "proven"),
        (BOWL, None, "no negative curvature beyond 2.0e-04 at these parameters", "certified"),
        (ROUNDED, None, "no negative curvature beyond 2.0e-04 at these param", "certified"),
        (OPEN, None, "undecided: the lowest curvature lies between -3.00e-01 and", "undecided"),
        (BOWL, probed(), "no negative curvature beyond 2.0e-04 at any of the 3 po", "certified"),
        (BOWL, probed((0.1, -0.2)), "not convex: no negative curvature was found he", "proven"),
        (OPEN, probed((0.1, -0.2)), "not convex: no negative curvature was found he", "proven"),
        (BOWL, probed(sag=(-1.0, 0.3)), "not convex: no negative curvature was foun", "proven"),
        (BOWL, probed(lower=(0.0, -0.5)), "undecided: no negative curvature was fou", "undecided"),
        (OPEN, probed(), "undecided: the lowest curvature lies between", "undecided"),
        (BOWL, probed((math.nan,) * 2), "no negative curvature beyond 2.0e-04 at the", "certified"),
    ],
)
def test_the_claim_says_no_more_than_was_proven(known, probes, claim, confidence):
    verdict = convexity(ends(**known), probes=probes)
    assert verdict.name == "convexity"
    assert verdict.claim.startswith(claim)
    assert verdict.confidence == confidence
    assert verdict.finding is False
    assert (confidence == "certified") == (not verdict.advice)


@pytest.mark.parametrize("num_points", [1, 7])
def test_points_without_negative_curvature_are_not_called_a_proof(num_points):
    others = num_points - 1
    probes = probed((0.1,) * others, (0.0,) * others, (-1.0,) * others) if others else None
    verdict = convexity(ends(**BOWL), probes)
    assert verdict.claim.endswith("this does not prove that the loss is convex")
    assert verdict.evidence["points"] == num_points
    assert ("7 points probed" in verdict.claim) == (num_points == 7)


def test_the_proof_names_what_was_found():
    assert probed((0.1, -0.2)).proof == "negative curvature -0.2 at distance 0.5"
    assert probed(sag=(-1.0, 0.3)).proof == "the loss is 0.3 above a chord of length 0.5"
    assert probed().proof == ""

"""Numbers in, claims out: derivatives against differences at the scale of a step."""

import math

import pytest
import torch

from hesscope.diagnosis.smoothness import smoothness
from hesscope.results.smoothness import Smoothness

RADII = (0.01, 0.1, 1.0)
SMOOTH = (2.0, 2.0, 2.0)
QUARTIC = (2.0 + 5e-5, 2.0 + 5e-3, 2.5)  # the gap falls as h²
KINKED = (2.0, 2.8, 3.0)
FLIPPED = (2.0, -1.0, -2.0)
EXACT = (0.0, 0.0, 0.0)


def along_a_line(
    differences, remainders=EXACT, rounding=1e-12, curvature=2.0, kinks=("Relu",)
) -> Smoothness:
    vector = lambda values: torch.tensor(values, dtype=torch.float64)  # noqa: E731
    return Smoothness(
        direction="the step",
        step_length=1.0,
        slope=-1.0,
        curvature=curvature,
        radii=vector(RADII),
        differences=vector(differences),
        difference_rounding=vector([rounding] * 3) / vector(RADII),
        remainders=vector(remainders),
        remainder_rounding=vector([rounding] * 3),
        kinks=kinks,
        num_gradients=9,
        num_matvecs=1,
    )


@pytest.mark.parametrize(
    ("measured", "step", "claim", "confidence"),
    [
        (along_a_line(SMOOTH), None, "smooth: over a step of length 1 ", "measured"),
        (
            along_a_line(QUARTIC),
            None,
            "not quadratic over a step of length 1: its curv",
            "measured",
        ),
        (along_a_line(QUARTIC), 0.1, "smooth: over a step of length 0.1", "measured"),
        (along_a_line(SMOOTH, (0, 0, 0.5)), None, "not quadratic over a step of len", "measured"),
        (along_a_line(KINKED), None, "kinks (Relu) hide curvature", "measured"),
        (along_a_line(KINKED, kinks=()), None, "not quadratic over a step of length 1", "measured"),
        (along_a_line(KINKED), 0.01, "smooth: over a step of length 0.01", "measured"),
        (along_a_line(SMOOTH, rounding=10.0), None, "undecided: rounding hides", "undecided"),
        (along_a_line(SMOOTH), 5.0, "undecided: nothing was measured near", "undecided"),
        (along_a_line(SMOOTH), math.inf, "undecided: nothing was measured near", "undecided"),
        (along_a_line(SMOOTH, (0, 0, math.nan)), None, "the loss is not finite", "measured"),
    ],
)
def test_the_claim_follows_from_differences_and_remainders(measured, step, claim, confidence):
    verdict = smoothness(measured, step)
    assert verdict.name == "smoothness"
    assert verdict.claim.startswith(claim)
    assert verdict.confidence == confidence
    assert verdict.finding is False
    assert (confidence == "undecided") <= bool(verdict.advice)
    assert not any(math.isnan(value) for value in verdict.evidence.values())


def test_kinks_are_told_with_both_curvatures_and_the_step_they_allow():
    verdict = smoothness(along_a_line(KINKED))
    assert "derivatives say 2, over a step it is 3, so they are off by 33%" in verdict.claim
    assert verdict.advice.endswith("over a length of about 0.667")  # 2 |g·v| / 3
    assert "wrong in sign" in smoothness(along_a_line(FLIPPED)).claim


def test_a_hinge_hides_all_of_its_curvature():
    assert "so they are off by 100%" in smoothness(along_a_line((0, 4, 3), curvature=0.0)).claim


def test_the_quadratic_radius_is_the_last_before_the_first_failure():
    predicted = torch.tensor(RADII, dtype=torch.float64)  # h |slope| + h², slope 1, curvature 2
    predicted = predicted + predicted.square()
    for failing, radius in ((0, 0.0), (1, 0.01), (2, 0.1), (None, 1.0)):
        remainders = 0.09 * predicted
        if failing is not None:
            remainders[failing] *= 2
        assert along_a_line(SMOOTH, remainders.tolist()).quadratic_radius == radius
    assert math.isnan(along_a_line(SMOOTH, rounding=10.0).quadratic_radius)

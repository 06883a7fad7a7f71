"""Numbers in, claims out: the step against the limits of the quadratic model."""

import math

import pytest

import hesscope as hs
from hesscope.diagnosis.step_size import step_size


@pytest.mark.parametrize(
    ("lr", "measured", "claim", "finding"),
    [
        (None, math.nan, "unstable above 0.2 = 2/λmax", False),
        (0.05, -0.04, "lr 0.05 is fine", False),
        (0.19, -0.01, "lr 0.19 is at the edge of stability", False),
        (0.21, -0.01, "lr 0.21 is at the edge of stability", False),
        (0.3, -0.01, "lr 0.3 is above 2/λmax = 0.2", True),
        (0.3, 0.2, "too large: at lr 0.3 this step climbs", True),
        (0.9, math.nan, "too large: at lr 0.9 this step climbs", True),
        (0.9, -0.1, "lr 0.9 is beyond the quadratic limit 0.8", False),
    ],
)
def test_the_claim_follows_from_lr_and_curvature(lr, measured, claim, finding):
    verdict = step_size(1.0, 2.5, 10.0, 1e-6, lr, measured)
    assert verdict.claim.startswith(claim)
    assert verdict.finding is finding
    assert verdict.evidence["2/λmax"] == pytest.approx(0.2)
    assert verdict.evidence["2 g·g/g·Hg"] == pytest.approx(0.8)


def test_without_positive_curvature_along_the_gradient_there_is_no_finite_limit():
    assert "along this gradient no finite limit" in step_size(1.0, -1.0, 5.0, 0.0).claim


@pytest.mark.parametrize(("factor", "climbs"), [(0.99, False), (1.01, True)])
def test_on_a_quadratic_the_threshold_along_the_gradient_is_sharp(factor, climbs):
    """L = ½ Σ λ_i t_i²: the loss change has the sign that the limit 2 g·g/g·Hg predicts."""
    import torch

    eigenvalues = torch.tensor([100.0, 10.0, 3.0, 1.0, 0.3, 0.1], dtype=torch.float64)
    problem = hs.Problem.from_function(
        lambda t: 0.5 * (eigenvalues * t * t).sum(), torch.ones(6, dtype=torch.float64)
    )
    g = eigenvalues
    limit = 2 * float(g @ g) / float(g @ (eigenvalues * g))
    verdict = hs.diagnose(problem, lr=factor * limit).verdict("step size")
    assert verdict.evidence["2 g·g/g·Hg"] == pytest.approx(limit, rel=1e-10)
    assert (verdict.evidence["measured change"] > 0) is climbs
    assert verdict.claim.startswith("too large") is climbs

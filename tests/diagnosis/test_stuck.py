"""Numbers in, claims out; and the best constant prediction against its closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.anatomy.constant_prediction import constant_loss
from hesscope.diagnosis.stuck import stuck
from hesscope.results.descent import Curvature, Descent

BOWL = Curvature(2.0, 0.0, 1.0, 0.0, lower=1.0, upper=2.0, noise=1e-12, delta=0.001)
SADDLE = Curvature(2.0, 0.0, -1.0, 0.0, lower=-1.0, upper=2.0, noise=1e-12, delta=0.001)
FLAT = Curvature(2.0, 0.0, 0.0, 0.0, lower=-1e-13, upper=2.0, noise=1e-12, delta=0.001)
STOPPED = Descent(0.0, math.nan, 1e-9)
PLATEAU = Descent(1.0, 0.1, 1e-9, progress=1e-8)
GOING = Descent(1.0, 0.1, 1e-9, progress=0.01)
NOISY = Descent(0.05, 0.1, 1e-9, progress=1e-8)


@pytest.mark.parametrize(
    ("share", "descent", "curvature", "claim", "advice", "confidence", "finding"),
    [
        (
            1.0,
            GOING,
            BOWL,
            "no: a step still lowers the loss; the loss is at chance level, 100 %",
            "",
            "measured",
            0,
        ),
        (1.0, NOISY, BOWL, "no: the gradient is below its sampling noise", "", "measured", 0),
        (0.2, STOPPED, BOWL, "no: a minimum, and the loss is 20 %", "", "measured", 0),
        (0.7, STOPPED, BOWL, "stopped half way: a minimum", "start again", "measured", 0),
        (1.0, STOPPED, BOWL, "stuck high: a minimum", "start again", "certified", 1),
        (1.0, STOPPED, SADDLE, "stuck high: a saddle", "hs.escape", "measured", 1),
        (1.0, STOPPED, FLAT, "stuck high: a flat critical point", "start again", "measured", 1),
        (0.99, PLATEAU, FLAT, "stuck high: a plateau", "start again", "measured", 1),
    ],
)
def test_the_claim_follows_from_the_numbers(
    share, descent, curvature, claim, advice, confidence, finding
):
    verdict = stuck(share * 2.0, 2.0, descent, curvature)
    assert verdict.claim.startswith(claim)
    assert verdict.advice.startswith(advice)
    assert (verdict.confidence, verdict.finding) == (confidence, bool(finding))


@pytest.mark.parametrize(("loss", "constant"), [(1.0, 0.0), (1.0, 1e-12), (-1.0, 2.0), (0.0, 0.0)])
def test_without_a_scale_it_is_undecided(loss, constant):
    verdict = stuck(loss, constant, STOPPED, BOWL)
    assert verdict.confidence == "undecided"
    assert not verdict.finding
    assert "share" not in verdict.evidence


def test_the_kick_doubles_a_quadratic_loss_on_average():
    """L + r² tr H/2n = 2 L at the stated radius; the mean over kicks is within four errors."""
    values = torch.linspace(0.5, 1.5, 40).double()
    problem = hs.Problem.from_function(
        lambda t: 1.0 + 0.5 * (values * t * t).sum(), torch.zeros(40).double()
    )
    density = hs.spectral_density(hs.Hessian(problem), 40)
    radius = stuck(1.0, 1.0, STOPPED, BOWL, density).evidence["kick_radius"]
    losses = torch.tensor([problem.at(hs.kick(problem, radius, seed=s)).loss() for s in range(200)])
    assert abs(float(losses.mean()) - 2.0) <= 4 * float(losses.std()) / 200**0.5


def problem(loss, targets, outputs=3, **options):
    torch.manual_seed(0)
    inputs = torch.randn(len(targets), 5)
    return hs.Problem(nn.Linear(5, outputs), loss, (inputs, targets), **options)


LABELS = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)


def entropy(*shares):
    return -sum(p * math.log(p) for p in shares)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_constant_cross_entropy_is_the_entropy_of_the_labels(batch_size):
    found = constant_loss(problem(F.cross_entropy, LABELS, batch_size=batch_size))
    assert found == pytest.approx(entropy(0.5, 0.3, 0.2), rel=1e-7)


def test_constant_squared_error_is_the_variance():
    targets = torch.randn(80, 2)
    found = constant_loss(problem(F.mse_loss, targets, 2))
    assert found == pytest.approx(float(targets.double().var(0, correction=0).mean()), rel=1e-6)


def test_constant_binary_cross_entropy_is_the_entropy():
    targets = (torch.arange(100) < 25).float()[:, None]
    found = constant_loss(problem(F.binary_cross_entropy_with_logits, targets, 1))
    assert found == pytest.approx(entropy(0.25, 0.75), rel=1e-6)


def test_constant_absolute_error_is_that_of_the_median_from_above():
    targets = torch.randn(81, 1)
    best = float((targets - targets.median()).abs().double().mean())
    found = constant_loss(problem(F.l1_loss, targets, 1))
    assert best - 1e-6 <= found <= 1.02 * best


def test_a_closure_has_no_outputs_to_hold_constant():
    saddle = hs.Problem.from_function(lambda t: (t**2).sum(), torch.ones(2))
    assert constant_loss(saddle) is None


def test_a_network_at_chance_on_a_flat_critical_point_is_stuck_high():
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    balanced = torch.arange(90) % 3
    dead = hs.Problem(model, F.cross_entropy, (torch.randn(90, 5).double(), balanced))
    verdict = hs.diagnose(dead, effort="quick", gradient_tolerance=1e-12).verdict("stuck_high")
    assert verdict.finding
    assert verdict.evidence["share"] == pytest.approx(1.0, rel=1e-6)

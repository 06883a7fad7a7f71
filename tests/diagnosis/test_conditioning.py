"""Numbers in, claims out; planted feature scales are found and healthy networks are left alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.anatomy.feature_scales import feature_ratio, feature_scales
from hesscope.diagnosis.conditioning import conditioning
from tests.state import state_of

NAN = math.nan


def spectrum(*values: float) -> hs.Conditioning:
    return hs.conditioning(hs.as_operator(torch.diag(torch.tensor(values, dtype=torch.float64))))


EVEN = spectrum(4.0, 2.0, 2.0, 1.0)  # largest over median 2
LARGEST = "typical directions need about "
UNEVEN = spectrum(1000.0, 1.0, 1.0, 1.0)
SINGULAR = spectrum(4.0, 2.0, 2.0, 0.0, 0.0)
FLAT = spectrum(0.0, 0.0)


@pytest.mark.parametrize(
    ("known", "extra", "claim", "finding"),
    [
        (
            EVEN,
            {},
            LARGEST + "1 step of gradient descent at the largest safe learning rate",
            False,
        ),
        (
            EVEN,
            {"lr": 0.1},
            "typical directions need about 5 steps of gradient descent at lr 0.1",
            False,
        ),
        (UNEVEN, {}, LARGEST + "500 steps of gradient descent", False),
        (UNEVEN, {"gradient_curvature": 1.0}, LARGEST, False),
        (UNEVEN, {"gradient_curvature": -1e-3}, LARGEST, False),
        (
            UNEVEN,
            {"gradient_curvature": 1e-3},
            "gradient descent creeps: the gradient points where the loss is 1,000,000 times",
            True,
        ),
        (EVEN, {"feature_ratio": 99.0}, LARGEST + "1 s", False),
        (EVEN, {"feature_ratio": 1e3}, "ill-conditioned by the input features: their", True),
        (FLAT, {}, "the loss is flat here: no curvature above", False),
    ],
)
def test_the_claim_follows_from_the_ratios_and_their_cause(known, extra, claim, finding):
    verdict = conditioning(known, 0.1, 1, **extra)
    assert verdict.name == "conditioning"
    assert verdict.claim.startswith(claim)
    assert verdict.finding is finding
    assert verdict.confidence == "measured"
    assert finding <= bool(verdict.advice)


def test_flat_directions_are_counted():
    verdict = conditioning(SINGULAR, NAN, 1)
    assert "2 of 5 directions are flat: nothing moves along them" in verdict.claim
    assert "gradient in the top 1" not in verdict.evidence


@pytest.mark.parametrize(("share", "told"), [(0.9, True), (0.1, False), (NAN, False)])
def test_a_gradient_in_the_sharpest_directions_is_told(share, told):
    claim = conditioning(EVEN, share, 2).claim
    assert (
        "of the gradient lies along the 2 sharpest directions, so steps bounce" in claim
    ) is told


def test_a_spread_that_is_not_known_is_undecided():
    wide = {**EVEN.ratios, 0.5: hs.Interval(1.0, 1e6, 0.95)}
    verdict = conditioning(hs.Conditioning(**{**vars(EVEN), "ratios": wide}), NAN, 1)
    assert verdict.confidence == "undecided"
    assert verdict.claim.startswith("undecided: at the largest safe learning rate")
    assert verdict.advice
    low = {**EVEN.ratios, 0.5: hs.Interval(100.0, 1e6, 0.95)}
    known = conditioning(hs.Conditioning(**{**vars(EVEN), "ratios": low}), NAN, 1)
    assert known.confidence == "measured"
    assert "between 50 and 500,000 steps" in known.claim


def examined(problem: hs.Problem) -> hs.Verdict:
    g, H = problem.gradient().double(), hs.Hessian(problem)
    c = hs.conditioning(hs.spectral_density(H, min(problem.n, 40)))
    along = float(g @ (H @ g.to(problem.dtype)).double() / (g @ g))
    ratio = feature_ratio(problem)
    return conditioning(c, NAN, 3, gradient_curvature=along, feature_ratio=ratio)


def points(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """300 points around four centres in 10 dimensions."""
    centres, y = torch.randn(4, 10).double(), torch.randint(0, 4, (300,))
    return centres[y] + torch.randn(300, 10).double(), y


def trained(model: nn.Module, loss_fn, x, y, steps: int, lr: float) -> hs.Problem:
    optimiser = torch.optim.SGD(model.parameters(), lr)
    for _ in range(steps):
        optimiser.zero_grad()
        loss_fn(model(x), y).backward()
        optimiser.step()
    return hs.Problem(model, loss_fn, (x, y))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("steps", [0, 30, 500])
def test_healthy_networks_at_start_middle_and_end_raise_nothing(seed, steps):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x, y = points(seed)
        dense = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4)).double()
        conv = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 4)).double()
        assert not examined(trained(dense, F.cross_entropy, x, y, steps, 0.1)).finding
        assert not examined(trained(conv, F.cross_entropy, x[:, None], y, steps, 0.1)).finding


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("scales", ["spread", "half", "one"])
def test_features_of_scales_1_to_1000_are_found_and_named(seed, scales):
    factors = {
        "spread": torch.logspace(0, 3, 10).double(),
        "half": torch.tensor([1.0] * 5 + [1000.0] * 5).double(),
        "one": torch.tensor([1.0] * 9 + [1000.0]).double(),
    }[scales]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x, y = points(seed)
        x, target = x * factors, x.sum(1, keepdim=True)
        lr = 1 / float(x.square().sum(1).mean())
        logistic = trained(nn.Linear(10, 4).double(), F.cross_entropy, x, y, 20, lr)
        linear = trained(nn.Linear(10, 1).double(), F.mse_loss, x, target, 20, lr / 2)
    for problem in (logistic, linear):
        verdict = examined(problem)
        assert verdict.finding
        assert verdict.claim.startswith("ill-conditioned by the input features")
        assert "normalise the features" in verdict.advice


def test_a_feature_is_measured_where_it_is_not_zero_and_not_where_it_is_rare():
    x = torch.zeros(200, 3, dtype=torch.float64)
    x[:, 0], x[:50, 1], x[0, 2] = 2.0, 6.0, 1e-3
    problem = hs.Problem(nn.Linear(3, 1).double(), F.mse_loss, (x, x[:, :1]), batch_size=70)
    before = state_of(problem.model)
    scales = feature_scales(problem)
    assert scales[:2].tolist() == pytest.approx([2.0, 6.0])
    assert math.isnan(scales[2])
    assert feature_ratio(problem) == pytest.approx(3.0)
    assert state_of(problem.model) == before
    assert not problem.model._forward_pre_hooks


def test_images_and_functions_have_no_feature_scales():
    images = torch.randn(5, 1, 4, 4)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    problem = hs.Problem(model, lambda out, _: out.square().mean(), (images, torch.zeros(5)))
    assert len(feature_scales(problem)) == 0
    alone = hs.Problem.from_function(lambda t: (t**2).sum(), torch.ones(2))
    assert math.isnan(feature_ratio(alone))

"""Derivatives against differences: on functions whose kinks and remainders are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.diagnosis import smoothness as diagnosis
from hesscope.landscape.smoothness import smoothness
from tests.networks import make, mlp, vectors
from tests.state import state_of
from tests.thinning import thinned


def function(f, *start: float, dtype: torch.dtype = torch.float64) -> hs.Problem:
    return hs.Problem.from_function(f, torch.tensor(start, dtype=dtype))


def classifier(activation: type[nn.Module], seed: int, steps: int, dtype=torch.float64):
    """A 10-24-24-4 network on 300 points around four centres, after steps of descent at lr 0.1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        centres, y = torch.randn(4, 10).double(), torch.randint(0, 4, (300,))
        x = centres[y] + torch.randn(300, 10).double()
        layers = [nn.Linear(10, 24), activation(), nn.Linear(24, 24), activation()]
        model = nn.Sequential(*layers, nn.Linear(24, 4)).double()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    return hs.Problem(model.to(dtype), F.cross_entropy, (x.to(dtype), y))


def test_on_a_quadratic_nothing_is_hidden_and_the_model_holds_at_every_radius():
    problem = function(lambda t: 3 * t[0] ** 2 + t[0] * t[1] + t[1] ** 2, 1.0, -2.0)
    s = smoothness(problem, torch.tensor([3.0, 4.0]), radii=[1e-2, 1.0, 100.0])
    assert s.curvature == pytest.approx((6 * 9 + 2 * 12 + 2 * 16) / 25, rel=1e-14)
    assert s.step_length == 5.0
    assert bool(((s.differences - s.curvature).abs() <= s.difference_rounding).all())
    assert bool((s.remainders.abs() <= s.remainder_rounding).all())
    assert s.quadratic_radius == 100.0


def test_the_remainder_of_a_cubic_and_the_difference_of_a_quartic_are_the_next_terms():
    """L = x³ + x⁴ at 0: L(h) - 0 = h³ + h⁴ and [g(h) - g(-h)]/2h = 4h², curvature 0."""
    s = smoothness(function(lambda t: (t**3 + t**4).sum(), 0.0), torch.ones(1), radii=[0.1, 0.5])
    assert torch.allclose(s.remainders, s.radii**3 + s.radii**4, rtol=1e-12, atol=0)
    assert torch.allclose(s.differences, 4 * s.radii**2, rtol=1e-12, atol=0)
    assert s.quadratic_radius == 0.0


def test_a_kink_adds_its_jump_over_twice_the_radius_and_nothing_before_it_is_crossed():
    """L = x² + relu(x - 0.5) at 0: the slope jumps by 1 at 0.5, so 1/2h is added from there on."""
    problem = function(lambda t: (t**2 + (t - 0.5).relu()).sum(), 0.0)
    s = smoothness(problem, torch.ones(1), radii=[0.1, 0.4, 0.6, 2.0])
    assert s.curvature == 2.0
    assert s.kinks == ("Relu",)
    expected = torch.tensor([2.0, 2.0, 2 + 1 / 1.2, 2 + 1 / 4], dtype=torch.float64)
    assert torch.allclose(s.differences, expected, rtol=1e-12, atol=0)
    hidden = 1 - 2 / expected
    assert torch.allclose(s.hidden_share, hidden, rtol=0, atol=1e-12)


def test_the_product_may_be_given_and_scales_with_the_direction():
    problem = function(lambda t: (t**4).sum(), 1.0, 2.0)
    d = torch.tensor([0.3, -0.1], dtype=torch.float64)
    known = smoothness(problem, d, ad_product=hs.Hessian(problem) @ d)
    own = smoothness(problem, d)
    assert known.curvature == pytest.approx(own.curvature, rel=1e-12)
    assert (known.num_matvecs, own.num_matvecs) == (0, 1)
    assert own.num_gradients == 2 * len(own) + 3


def test_gradients_are_counted_rightly_and_the_model_comes_back_as_it_was(monkeypatch):
    case = make(lambda: (mlp(nn.ReLU), F.cross_entropy, vectors()))
    problem, calls = case.problem(), 0
    gradient, before = problem.gradient(), state_of(case.model)
    grad = torch.autograd.grad

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    s = smoothness(problem, gradient, ad_product=gradient, radii=[0.1, 1.0])
    assert calls == s.num_gradients == 7
    assert state_of(case.model) == before


def test_a_loss_that_is_not_finite_far_away_is_recorded():
    s = smoothness(function(lambda t: -t.log().sum(), 1.0), torch.ones(1), radii=[0.5, 2.0])
    assert s.remainders.isnan().tolist() == [False, True]
    assert s.quadratic_radius < 1
    assert "not finite" in diagnosis.smoothness(s, 2.0).claim


@pytest.mark.parametrize("seed", thinned(range(10), 5))
@pytest.mark.parametrize("steps", [0, 300])
def test_rounding_explains_what_single_precision_loses_on_a_smooth_network(seed, steps):
    """Against double precision at the same parameters and radii."""
    single = classifier(nn.Tanh, seed, steps, torch.float32)
    double = single.in_double([batch.content for batch in single.batches])
    d = -0.1 * double.gradient()
    low, high = (smoothness(p, d, seed=seed) for p in (single, double))
    assert bool(((low.differences - high.differences).abs() <= low.difference_rounding).all())
    assert bool(((low.remainders - high.remainders).abs() <= low.remainder_rounding).all())
    assert bool((low.difference_rounding[-3:] <= 0.01 * abs(high.curvature)).all())


@pytest.mark.parametrize("kind", thinned([nn.ReLU, nn.Tanh], 2))
def test_trained_networks_are_called_smooth_or_kinked_as_they_are(kind):
    """A step of a ReLU network that crosses no kink of weight is smooth, and rightly called so."""
    problems = [classifier(kind, seed, 300) for seed in range(10)]
    verdicts = [
        diagnosis.smoothness(smoothness(problem, -0.1 * problem.gradient())) for problem in problems
    ]
    smooth = [verdict.claim.startswith("smooth: ") for verdict in verdicts]
    kinked = [verdict.claim.startswith("kinks (Relu)") for verdict in verdicts]
    assert sum(smooth) + sum(kinked) == 10
    assert sum(smooth) == 10 if kind is nn.Tanh else sum(kinked) >= 8
    assert not any(verdict.finding for verdict in verdicts)


@pytest.mark.parametrize("seed", range(10))
def test_a_large_step_on_a_smooth_network_is_not_blamed_on_kinks(seed):
    problem = classifier(nn.Tanh, seed, 0)
    verdict = diagnosis.smoothness(smoothness(problem, -5.0 * problem.gradient()))
    assert verdict.claim.startswith("not quadratic over a step")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"direction": torch.ones(3)}, r"direction has shape \(3,\) and norm 1.73205; give a fin"),
        ({"direction": torch.zeros(2)}, r"direction has shape \(2,\) and norm 0; give a finite"),
        ({"direction": torch.tensor([1.0, math.nan])}, "direction has shape .* norm nan; give"),
        ({"ad_product": torch.ones(1)}, r"ad_product has shape \(1,\) and norm 1; give a finite"),
        ({"radii": [0.1, 0.0]}, r"radii=\[0.1, 0.0\] must be positive lengths, such as"),
        ({"radii": []}, r"radii=\[\] must be positive lengths, such as \[1e-3, 1e-2, 0.1\]"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    problem = function(lambda t: (t**2).sum(), 1.0, 2.0)
    with pytest.raises(ValueError, match=message):
        smoothness(problem, **{"direction": torch.ones(2), **arguments})

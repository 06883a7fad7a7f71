"""Convex losses are never called non-convex, and a network at initialisation always is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.diagnosis.convexity import convexity
from hesscope.landscape.convexity import negative_curvature_probes
from hesscope.results.descent import Curvature
from tests.state import state_of
from tests.thinning import thinned

SEEDS = thinned(range(10), 4)
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def two_classes(seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """200 points in 6 dimensions of scales 1 to 100, with labels ±1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    y = (x.sum(1) + torch.randn(200, generator=generator, dtype=torch.float64)).sign()
    return (x * torch.logspace(0, 2, 6)).to(dtype), y.to(dtype)


def linear(seed: int, dtype: torch.dtype, loss, penalty: float = 0.0) -> hs.Problem:
    """A linear classifier with loss(margin) and ½ penalty ‖w‖², none on the bias."""
    x, y = two_classes(seed, dtype)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Linear(6, 1).to(dtype)

    def closure(model, batch):
        margins = batch[1] * model(batch[0])[:, 0]
        return loss(margins).mean() + penalty / 2 * model.weight.square().sum()

    return hs.Problem.from_closure(model, closure, [(x, y)])


def softmax(seed: int, dtype: torch.dtype) -> hs.Problem:
    """Logistic regression on three classes, whose Hessian is singular by the softmax shift."""
    x, _ = two_classes(seed, dtype)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, y = nn.Linear(6, 3).to(dtype), torch.randint(0, 3, (200,))
    return hs.Problem(model, F.cross_entropy, (x, y))


CONVEX = {
    "logistic": lambda seed, dtype: linear(seed, dtype, lambda m: F.softplus(-m)),
    "softmax": softmax,
    "hinge": lambda seed, dtype: linear(seed, dtype, lambda m: F.relu(1 - m), penalty=0.1),
    "squared hinge": lambda seed, dtype: linear(seed, dtype, lambda m: F.relu(1 - m).square()),
}


def ends(problem: hs.Problem, seed: int) -> Curvature:
    density = hs.spectral_density(hs.Hessian(problem), 60, seed=seed)
    return Curvature(
        lambda_max=float(density.nodes[-1]),
        lambda_max_error=0.0,
        lambda_min=float(density.nodes[0]),
        lambda_min_error=0.0,
        lower=density.lower,
        upper=density.upper,
        noise=density.rounding,
        delta=density.delta,
    )


@BOTH
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CONVEX)
def test_convex_losses_show_no_negative_curvature_and_are_not_called_convex(name, seed, dtype):
    problem = CONVEX[name](seed, dtype)
    probes = negative_curvature_probes(problem, 3, seed=seed)
    verdict = convexity(ends(problem, seed), probes=probes)
    assert probes.proof == ""
    assert verdict.confidence == "certified"
    assert "does not prove that the loss is convex" in verdict.claim


def test_the_hinge_is_flat_along_its_bias_and_curved_by_the_penalty_alone():
    problem = CONVEX["hinge"](0, torch.float64)
    probes = negative_curvature_probes(problem, 2)
    assert torch.allclose(probes.lambda_max, torch.full((2,), 0.1).double(), rtol=1e-6)
    assert torch.allclose(probes.lambda_min, torch.zeros(2).double(), rtol=0, atol=1e-12)


@BOTH
@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_at_initialisation_is_proven_not_to_be_convex(seed, dtype):
    x, y = two_classes(seed, dtype)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
    problem = hs.Problem(model, lambda out, y: F.softplus(-y * out[:, 0]).mean(), (x / 30, y))
    assert convexity(ends(problem, seed)).confidence == "proven"
    assert bool(negative_curvature_probes(problem, 2, seed=seed).negative.any())


def test_a_chord_sees_what_second_derivatives_cannot():
    """L = -|x|: the Hessian is zero everywhere, yet chords across the kink lie below the loss."""
    problem = hs.Problem.from_function(lambda t: -t.abs().sum(), torch.tensor([0.3]).double())
    probes = negative_curvature_probes(problem, 4, radius=4.0)
    assert not bool(probes.negative.any())
    assert probes.proof.startswith("the loss is ")


def test_points_lie_at_the_given_distance_and_the_cost_is_kept(monkeypatch):
    start = torch.tensor([3.0, 4.0]).double()
    problem = hs.Problem.from_function(lambda t: (t**2).sum(), start)
    seen = []
    monkeypatch.setattr(
        hs.Problem,
        "at",
        (lambda at: lambda self, theta: seen.append(theta) or at(self, theta))(hs.Problem.at),
    )
    probes = negative_curvature_probes(problem, 2, radius=0.2, max_matvecs=5)
    distances = sorted({round(float((theta - start).norm()), 12) for theta in seen})
    assert distances == [0.5, 1.0]
    assert probes.distance == pytest.approx(1.0)
    assert probes.num_matvecs <= 10


def test_a_point_without_a_finite_loss_is_recorded_and_the_others_count():
    problem = hs.Problem.from_function(lambda t: -t.log().sum(), torch.ones(1).double())
    probes = negative_curvature_probes(problem, 6, radius=1.5)
    outside = probes.lambda_min.isnan()
    assert 0 < int(outside.sum()) < 6
    assert len(probes) == 6 - int(outside.sum())
    assert probes.proof == ""


def test_the_model_comes_back_as_it_was():
    problem = softmax(0, torch.float32)
    before = state_of(problem.model)
    negative_curvature_probes(problem, 1)
    assert state_of(problem.model) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_points": 0}, "num_points=0 and max_matvecs=40: give at least 1 point and 4 matvecs"),
        ({"max_matvecs": 3}, "num_points=4 and max_matvecs=3: give at least 1 point and 4 matv"),
        ({"radius": 0.0}, "radius=0.0 is no positive length relative to θ; the usual one is 0.1."),
        ({"radius": math.inf}, "radius=inf is no positive length relative to θ; the usual one"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    problem = hs.Problem.from_function(lambda t: (t**2).sum(), torch.ones(1))
    with pytest.raises(ValueError, match=message):
        negative_curvature_probes(problem, **arguments)

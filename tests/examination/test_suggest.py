"""Learning rates in closed form: quadratics, their momentum, and the noise of their batches."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.oracles import data, network

EIGENVALUES = torch.tensor([8.0, 2.0, 0.5], dtype=torch.float64)


class Bowl(nn.Module):
    """½ Σ λ t² over examples t = θ - x: every example has the Hessian diag λ."""

    def __init__(self, eigenvalues, start):
        super().__init__()
        self.eigenvalues, self.t = eigenvalues, nn.Parameter(start.clone())

    def forward(self, x):
        return ((self.t - x).square() * self.eigenvalues).sum(1) / 2


def bowl(eigenvalues, num=6, start=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, len(eigenvalues), dtype=torch.float64, generator=generator)
    model = Bowl(eigenvalues, torch.full_like(eigenvalues, start))
    return hs.Problem(model, lambda out, _: out.mean(), (x, torch.zeros(num))), x


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda w: None, 1 / 8),
        (lambda w: torch.optim.SGD(w, lr=0.01), 1 / 8),
        (lambda w: torch.optim.SGD(w, lr=0.01, weight_decay=2.0), 1 / 10),
    ],
)
def test_without_noise_it_is_half_of_the_limit(make, expected):
    """From a start in the flat directions alone, where a single step could be longer."""
    problem, _ = bowl(EIGENVALUES)
    problem.write(problem.theta * torch.tensor([0.0, 1.0, 1.0]).double() + 1e-3)
    found = hs.suggest_lr(problem, make(problem.model.parameters()), seed=0)
    assert found.lr == pytest.approx(expected, rel=1e-6)
    assert found.limited_by == "the sharpest direction"
    assert found.bounds.high == pytest.approx(2 * expected, rel=1e-6)


def test_momentum_counts_in_both_limits():
    """(1 + β)/λmax for what is stable; a lasting gradient moves θ by lr/(1 - β)."""
    problem, _ = bowl(EIGENVALUES)
    sgd = torch.optim.SGD(problem.model.parameters(), lr=0.01, momentum=0.5)
    found, plain = hs.suggest_lr(problem, sgd, seed=0), hs.suggest_lr(problem, seed=0)
    assert found.stability_limit == pytest.approx(3 / 8, rel=1e-6)
    g = problem.gradient()
    assert plain.best_along == pytest.approx(float(g @ g / (g @ (EIGENVALUES * g))), rel=1e-9)
    assert found.best_along == pytest.approx(plain.best_along / 2, rel=1e-9)


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_the_best_step_on_batches_is_that_of_all_batches_there_are(size):
    """The expected loss after a step, over all subsets, is least there (H alike everywhere)."""
    problem, x = bowl(torch.full((3,), 2.0, dtype=torch.float64))
    found = hs.suggest_lr(problem, batch_size=size, seed=0)
    theta = problem.theta
    subsets = list(itertools.combinations(range(6), size))
    gradients = torch.stack([2 * (theta - x[list(some)]).mean(0) for some in subsets])

    def expected(lr):
        return sum(problem.loss_at(theta - lr * g) for g in gradients) / len(gradients)

    best = found.best_on_batches
    middle, below, above = (expected(best * f) for f in (1.0, 0.99, 1.01))
    assert middle < min(below, above)
    assert below == pytest.approx(above, rel=1e-9)
    if size == 6:
        assert best == pytest.approx(0.5)


def test_noise_limits_where_batches_are_small_and_not_where_they_are_all_data():
    problem, _ = bowl(torch.full((3,), 2.0, dtype=torch.float64), num=40, start=0.2)
    small, whole = (hs.suggest_lr(problem, batch_size=size, seed=0) for size in (1, 40))
    assert small.limited_by == "the noise of batches"
    assert small.lr < 0.1 * whole.lr
    assert small.noise_scale > 1
    assert whole.lr == pytest.approx(0.5)


def test_for_an_adaptive_optimiser_it_is_half_of_its_own_limit():
    model, (X, Y) = network(6, 8, 3), data(60, 6, 3)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    problem = hs.Problem(model, F.cross_entropy, (X, Y))
    before = hs.suggest_lr(problem, adam, seed=0)
    assert math.isnan(before.stability_limit)
    assert "only this step counts" in " ".join(before.assumptions)
    for _ in range(5):
        adam.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        adam.step()
    found = hs.suggest_lr(problem, adam, seed=0)
    H = hs.PreconditionedHessian(problem, adam)
    top = float(hs.eigsh(H, 1, tol=1e-6, seed=0).eigenvalues[0])
    assert found.stability_limit == pytest.approx(38 / top, rel=0.02)
    assert found.lr <= found.stability_limit / 2


def test_the_examination_gives_the_same_number_and_a_finding_advises_it():
    model, (X, Y) = network(6, 8, 3), data(60, 6, 3)
    problem = hs.Problem(model, F.cross_entropy, (X, Y))
    sgd = torch.optim.SGD(model.parameters(), lr=300.0)
    found = hs.suggest_lr(problem, sgd, 10, seed=0)
    verdict = hs.diagnose(problem, sgd, batch_size=10, effort="quick", seed=0).verdict("step_size")
    assert verdict.evidence["suggested_lr"] == pytest.approx(found.lr, rel=1e-9)
    assert verdict.finding
    assert f"to start from: lr {found.lr:.4g}" in verdict.advice
    assert found.num_matvecs <= 42
    assert found.lr < verdict.evidence["batch_limit"]


def test_training_at_the_suggested_rate_goes_down_and_at_four_times_it_blows_up():
    """On a quadratic from everywhere: half of the limit, and twice it."""
    for factor, falls in ((1.0, True), (4.1, False)):
        problem, _ = bowl(EIGENVALUES)
        found = hs.suggest_lr(problem, seed=0)
        lr = factor * found.stability_limit / 2
        first, theta = problem.loss(), problem.theta
        for _ in range(30):
            theta = theta - lr * problem.at(theta).gradient()
        assert (problem.loss_at(theta) < first) is falls


def test_a_loss_without_curvature_has_no_suggestion():
    problem = hs.Problem.from_function(lambda t: t.sum(), torch.ones(2).double())
    found = hs.suggest_lr(problem, seed=0)
    assert math.isnan(found.lr)
    assert str(found) == "gradient descent: no lr can be suggested, for no limit of it is known"


def test_bad_arguments_are_refused():
    problem, _ = bowl(EIGENVALUES)
    with pytest.raises(ValueError, match="batch_size=0 is no number of examples"):
        hs.suggest_lr(problem, batch_size=0)
    with pytest.raises(ValueError, match="is no optimiser of torch"):
        hs.suggest_lr(problem, 3)

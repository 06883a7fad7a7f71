"""Gauss-Newton and the Fisher matrices against dense references, identities and closed forms."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests import oracles
from tests.oracles import data, network

X, Y = data(23, 5, 3)
REAL = torch.randn(23, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
HOLES = torch.where(torch.arange(23) % 3 == 0, -100, Y)
WEIGHT = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
LOSSES = {
    "cross-entropy": (F.cross_entropy, Y, None),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHT), Y, lambda y: WEIGHT[y].sum()),
    "ignored": (F.cross_entropy, HOLES, lambda y: (y != -100).sum()),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), Y, None),
    "squared error": (F.mse_loss, REAL, None),
    "logistic": (nn.BCEWithLogitsLoss(), (REAL > 0).double(), None),
    "huber": (nn.HuberLoss(), REAL, None),
    "own": (lambda z, t: ((z - t) ** 4).mean(), REAL, None),
}


def relative(A: torch.Tensor, B: torch.Tensor) -> float:
    return float((A - B).norm() / B.norm())


@pytest.mark.parametrize("batch_size", [None, 22, 4, 1])
@pytest.mark.parametrize("name", LOSSES)
def test_gauss_newton_equals_the_dense_reference_however_the_data_is_split(name, batch_size):
    loss_fn, targets, count = LOSSES[name]
    problem = hs.Problem(
        network(5, 7, 3), loss_fn, (X, targets), count=count, batch_size=batch_size
    )
    G = hs.GaussNewton(problem)
    assert relative(G.to_dense(), oracles.gauss_newton(problem, X, targets)) < 1e-12
    assert hs.check_operator(G).ok


@pytest.mark.parametrize("memory", [None, 0])
def test_kept_and_rebuilt_graphs_agree_and_follow_the_parameters(memory):
    problem = hs.Problem(network(5, 7, 3), F.cross_entropy, (X, Y), batch_size=8)
    G = hs.GaussNewton(problem, memory=memory)
    before = G.to_dense()
    problem.model[0].weight.data.mul_(1.5)
    assert relative(G.to_dense(), before) > 0.01
    assert relative(G.to_dense(), oracles.gauss_newton(problem, X, Y)) < 1e-12


@pytest.mark.parametrize("name", ["cross-entropy", "squared error", "own"])
def test_for_models_linear_in_theta_there_is_no_residual(name):
    loss_fn, targets, _ = LOSSES[name]
    problem = hs.Problem(nn.Linear(5, 3).double(), loss_fn, (X, targets))
    residual = hs.Hessian(problem) - hs.GaussNewton(problem)
    assert float(residual.to_dense().norm()) < 1e-13


def test_at_zero_residual_of_squared_error_gauss_newton_is_the_hessian():
    model = network(5, 7, 3)
    problem = hs.Problem(model, F.mse_loss, (X, model(X).detach()))
    assert relative(hs.GaussNewton(problem).to_dense(), hs.Hessian(problem).to_dense()) < 1e-12


@pytest.mark.parametrize("name", ["cross-entropy", "class weights", "squared error", "logistic"])
def test_the_exact_fisher_is_gauss_newton_for_log_likelihoods(name):
    loss_fn, targets, count = LOSSES[name]
    problem = hs.Problem(network(5, 7, 3), loss_fn, (X, targets), count=count)
    assert relative(hs.Fisher(problem).to_dense(), hs.GaussNewton(problem).to_dense()) < 1e-14


@pytest.mark.parametrize("name", ["cross-entropy", "squared error", "logistic"])
def test_the_sampled_fisher_is_unbiased_and_repeats_with_its_seed(name):
    """Over 60 seeds the mean projection v'Fv lies within five standard errors of the truth."""
    loss_fn, targets, _ = LOSSES[name]
    problem = hs.Problem(network(5, 7, 3), loss_fn, (X, targets), batch_size=10)
    v = torch.randn(problem.n, dtype=torch.float64)
    values = torch.stack([v @ (hs.Fisher(problem, 4, seed=s) @ v) for s in range(60)])
    truth = v @ (hs.Fisher(problem) @ v)
    assert abs(float(values.mean() - truth)) < 5 * float(values.std()) / 60**0.5
    assert torch.equal(hs.Fisher(problem, 4, seed=3) @ v, hs.Fisher(problem, 4, seed=3) @ v)
    assert len(values.unique()) == 60


@pytest.mark.parametrize("name", ["cross-entropy", "smoothing", "squared error", "huber", "own"])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_the_empirical_fisher_is_the_second_moment_of_item_gradients(name, batch_size):
    loss_fn, targets, _ = LOSSES[name]
    problem = hs.Problem(network(5, 7, 3), loss_fn, (X, targets), batch_size=batch_size)
    g = oracles.item_gradients(problem, X, targets)
    assert relative(hs.EmpiricalFisher(problem).to_dense(), g.T @ g / len(g)) < 1e-12
    centred = g - g.mean(0)
    covariance = hs.GradientCovariance(problem).to_dense()
    assert relative(covariance, centred.T @ centred / len(g)) < 1e-11


def test_empirical_fisher_and_gauss_newton_differ_where_the_fit_is_perfect():
    """The empirical one vanishes with the residuals, the curvature does not."""
    model = network(5, 7, 3)
    problem = hs.Problem(model, F.mse_loss, (X, model(X).detach() + 1e-6))
    assert float(hs.EmpiricalFisher(problem).to_dense().norm()) < 1e-10
    assert float(hs.GaussNewton(problem).to_dense().norm()) > 1e-2


def test_doubling_the_targets_quadruples_the_empirical_fisher_at_zero_outputs_only():
    model = nn.Linear(5, 3).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    once, twice = (hs.Problem(model, F.mse_loss, (X, factor * REAL)) for factor in (1, 2))
    ratio = hs.EmpiricalFisher(twice).to_dense() / hs.EmpiricalFisher(once).to_dense()
    assert torch.allclose(ratio, torch.full_like(ratio, 4.0))
    assert relative(hs.GaussNewton(twice).to_dense(), hs.GaussNewton(once).to_dense()) < 1e-15


@pytest.mark.parametrize(
    "operator", [hs.GaussNewton, hs.Fisher, hs.EmpiricalFisher, hs.GradientCovariance]
)
def test_a_block_is_a_submatrix(operator):
    problem = hs.Problem(network(5, 7, 3), F.cross_entropy, (X, Y))
    block = problem.block("2.*")
    whole = operator(problem).to_dense()
    start = problem.n - block.n
    assert relative(operator(block).to_dense(), whole[start:, start:]) < 1e-13


def test_tokens_are_items():
    """Logits (N, C, T) with ignored labels: as many items as labels that count."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(5, 6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x).movedim(-1, 1)

    inputs = torch.randn(6, 4, 5, dtype=torch.float64)
    labels = torch.randint(0, 3, (6, 4))
    labels[::2, 2:] = -100
    model = Tokens()
    problem = hs.Problem(
        model, F.cross_entropy, (inputs, labels), count=lambda y: (y != -100).sum(), batch_size=4
    )
    kept = labels.reshape(-1) != -100
    flat = hs.Problem(
        model.net, F.cross_entropy, (inputs.reshape(-1, 5)[kept], labels.reshape(-1)[kept])
    )
    for operator in (hs.GaussNewton, hs.EmpiricalFisher):
        assert relative(operator(problem).to_dense(), operator(flat).to_dense()) < 1e-13


@pytest.mark.parametrize("operator", [hs.GaussNewton, hs.Fisher, hs.EmpiricalFisher])
def test_a_closure_has_no_outputs(operator):
    problem = hs.Problem.from_function(lambda t: (t**2).sum(), torch.ones(2))
    message = (
        f"{operator.__name__} needs to know the model's outputs, which this problem does not: "
        "it was made from a closure or a function. Use hs.Problem(model, loss_fn, data) with "
        "unpack and forward."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        operator(problem)


def test_a_loss_without_a_distribution_has_no_fisher():
    problem = hs.Problem(network(5, 3), nn.HuberLoss(), (X, REAL))
    with pytest.raises(ValueError, match=r"^the Fisher matrix needs the distribution behind"):
        hs.Fisher(problem)

"""What single precision leaves in products is measured, and is part of every stated error."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import hesscope as hs
from hesscope.curvature.preconditioned import StepHessian
from hesscope.estimators.survey import survey


def confident(margin, dtype=torch.float32):
    """A logistic regression whose predictions are right by a margin, and its exact eigenvalues."""
    x = torch.tensor([[1.0, 0.2], [-1.0, 0.1], [1.0, -0.3], [-1.0, -0.2]], dtype=torch.float64)
    y = torch.tensor([[1.0], [0.0], [1.0], [0.0]], dtype=dtype)
    model = torch.nn.Linear(2, 1, bias=False).to(dtype)
    model.weight.data = torch.tensor([[float(margin), 0.0]], dtype=dtype)
    problem = hs.Problem(model, F.binary_cross_entropy_with_logits, (x.to(dtype), y))
    z = margin * x[:, 0].abs()
    weights = torch.sigmoid(-z) * torch.sigmoid(z)
    return problem, torch.linalg.eigvalsh((x.T * weights) @ x / 4)


@pytest.mark.parametrize("operator", [hs.Hessian, hs.GaussNewton])
@pytest.mark.parametrize("margin", [1, 10, 16, 18, 20])
def test_intervals_hold_where_digits_cancel(margin, operator):
    problem, exact = confident(margin)
    A = operator(problem)
    pairs = hs.eigsh(A, 2)
    for value, error in zip(pairs.eigenvalues, pairs.residuals, strict=True):
        assert float((exact - value).abs().min()) <= float(error)
    assert pairs.certificate.lower <= float(exact[0])
    assert pairs.certificate.upper >= float(exact[-1])
    assert float(exact.sum()) in hs.trace(A).interval(0.999)
    assert float(exact.norm()) in hs.frobenius_norm(A).interval(0.999)
    found = hs.spectrum(A)
    assert float((found.eigenvalues - exact).abs().max()) <= found.error
    said = [any("digits cancel" in note for note in r.notes) for r in (pairs, hs.trace(A))]
    assert said == [margin > 1] * 2
    assert bool(pairs.converged[0]) == (margin < 16)


def test_a_survey_and_a_density_say_it_too():
    torch.manual_seed(0)
    x = torch.randn(60, 40)
    x[:, 0] = 4 * torch.sign(x[:, 0])
    model = torch.nn.Linear(40, 1, bias=False)
    model.weight.data = torch.tensor([[4.0] + [0.0] * 39])
    y = (x[:, :1] > 0).float()
    problem = hs.Problem(model, F.binary_cross_entropy_with_logits, (x, y))
    s = torch.sigmoid(torch.tensor(-16.0).double()) * torch.sigmoid(torch.tensor(16.0).double())
    exact = torch.linalg.eigvalsh(s * x.double().T @ x.double() / 60)
    density, pairs = survey(hs.Hessian(problem), 20, 2)
    for found in (density, pairs):
        assert any("digits cancel" in note for note in found.notes)
    assert density.lower <= float(exact[0])
    assert density.upper >= float(exact[-1])
    for i in range(2):
        assert float((exact - pairs.eigenvalues[i]).abs().min()) <= float(pairs.residuals[i])


def test_in_float64_nothing_is_measured():
    problem, _ = confident(10, torch.float64)
    H = hs.Hessian(problem)
    before = H.facts()
    assert H.measured_noise(torch.ones(2).double()) == 0.0
    assert H.facts() == before
    assert hs.eigsh(H, 1).notes == ()


def test_the_sum_of_a_weak_and_a_strong_operator_is_as_exact_as_the_weak_one():
    torch.manual_seed(0)
    M = torch.randn(120, 120, dtype=torch.float64)
    M = (M + M.T) / 20
    weak = hs.as_operator(M.float())
    strong = hs.as_operator(torch.diag(torch.linspace(0, 1, 120).double()))
    exact = torch.linalg.eigvalsh(M + torch.diag(torch.linspace(0, 1, 120).double()))
    A = weak + strong
    assert A.dtype is torch.float64
    assert A.precision is torch.float32
    pairs = hs.eigsh(A, 3, tol=1e-12)
    assert float(pairs.residuals.min()) > 1e-7 * float(exact[-1])
    assert ((exact.flip(0)[:3] - pairs.eigenvalues).abs() <= pairs.residuals).all()
    density = hs.spectral_density(A, 40)
    assert density.rounding > 1e-7 * float(exact[-1])


def test_summands_that_cancel_leave_their_own_rounding():
    torch.manual_seed(0)
    d = torch.linspace(1, 2, 100)
    large = hs.as_operator(1e4 * torch.ones(100).diag() + d.diag())
    other = hs.as_operator(lambda V: 1e4 * V, 100, dtype=torch.float32)
    A = large - other
    pairs = hs.eigsh(A, 1)
    assert float((d.double() - pairs.eigenvalues[0]).abs().min()) <= float(pairs.residuals[0])
    assert float(pairs.residuals[0]) > 1e-4
    assert any("digits cancel" in note for note in pairs.notes)


def test_a_model_without_float64_is_measured_as_it_is():
    def single_only(theta):
        if theta.dtype == torch.float64:
            message = "no float64 here"
            raise RuntimeError(message)
        return (theta**4).sum()

    problem = hs.Problem.from_function(single_only, torch.ones(3))
    pairs = hs.eigsh(hs.Hessian(problem), 1)
    assert float(pairs.eigenvalues[0]) == pytest.approx(12.0, rel=1e-6)
    assert pairs.notes == ()


@pytest.mark.parametrize("margin", [1, 10, 16, 18])
@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_intervals_of_what_an_optimiser_sees_hold_where_digits_cancel(kind, margin):
    problem, _ = confident(margin)
    parameters = list(problem.model.parameters())
    if kind == "Adam":
        optimizer = torch.optim.Adam(parameters, lr=0.5)
        state = {"step": torch.tensor(9.0), "exp_avg": torch.zeros(1, 2)}
        optimizer.state[parameters[0]] = {**state, "exp_avg_sq": torch.tensor([[1e-6, 4e-10]])}
        operators = [hs.PreconditionedHessian(problem, optimizer), StepHessian(problem, optimizer)]
        rates = [1.0, 0.5]
        P = operators[0].preconditioner().double()
    else:
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        operators, rates, P = [StepHessian(problem, optimizer)], [0.5], torch.ones(2).double()
    x = torch.tensor([[1.0, 0.2], [-1.0, 0.1], [1.0, -0.3], [-1.0, -0.2]], dtype=torch.float64)
    z = margin * x[:, 0].abs()
    H = (x.T * (torch.sigmoid(-z) * torch.sigmoid(z))) @ x / 4
    for A, rate in zip(operators, rates, strict=True):
        exact = torch.linalg.eigvalsh(rate * H / P.sqrt() / P.sqrt()[:, None])
        pairs = hs.eigsh(A, 2)
        for value, error in zip(pairs.eigenvalues, pairs.residuals, strict=True):
            assert float((exact - value).abs().min()) <= float(error)
        assert pairs.certificate.lower <= float(exact[0])
        assert pairs.certificate.upper >= float(exact[-1])
        assert float(exact.sum()) in hs.trace(A).interval(0.999)
        assert any("digits cancel" in note for note in pairs.notes) == (margin > 1)

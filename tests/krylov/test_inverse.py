"""The inverse as an operator: exact to its tolerance, and no answer claims more digits."""

from __future__ import annotations

import signal

import pytest
import torch
from torch.nn import functional as F

import hesscope as hs
from tests.krylov.test_solve import SPECTRA, matrix, vectors


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("name", ["well", "wide", "indefinite"])
def test_products_are_those_of_the_dense_inverse(name, damping):
    M, V = matrix(SPECTRA[name]), vectors(80, 2)
    exact = torch.linalg.inv(M + damping * torch.eye(80).double())
    inverse = hs.Inverse(M, damping)
    assert ((inverse @ V - exact @ V).norm(dim=0) <= 1e-8 * exact.norm() * V.norm(dim=0)).all()
    assert inverse.num_solved >= 2


@pytest.mark.parametrize("name", ["wide", "indefinite"])
def test_its_eigenvalues_lead_to_those_of_the_operator_next_to_a_point(name):
    M = matrix(SPECTRA[name])
    near = 1 / torch.linalg.eigvalsh(M + 0.02 * torch.eye(80).double())
    found = hs.eigsh(hs.Inverse(M, 0.02), 3, "LM", seed=0)
    wanted = near[near.abs().argsort(descending=True)][:3]
    assert ((found.eigenvalues - wanted).abs() <= found.residuals).all()
    assert (found.residuals >= 1e-8 * wanted.abs().max()).all()  # the tolerance is in it


def test_a_density_of_the_inverse_counts_what_lies_below_a_threshold():
    M = matrix(SPECTRA["wide"])
    density = hs.spectral_density(hs.Inverse(M, 1e-3, lambda_min=0.0), 60, seed=0)
    true = int((torch.linalg.eigvalsh(M) < 9e-3).sum())
    assert true in density.count(100.0, 1e4)


def test_the_diagonal_of_an_inverse_and_its_error():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    inputs = torch.randn(60, 4, dtype=torch.float64)
    p = hs.Problem(model.double(), F.cross_entropy, (inputs, torch.arange(60) % 3))
    G = hs.GaussNewton(p)
    damped = G.to_dense() + 0.01 * torch.eye(G.n).double()
    exact = torch.linalg.inv(damped).diagonal()
    ratios = []
    for seed in range(6):
        found = hs.diagonal(hs.Inverse(G, 0.01, tol=1e-6), 20, seed=seed)
        ratios.append(float((found.values - exact).norm()) / found.error)
    assert max(ratios) < 2
    assert sum(ratios) / 6 > 0.4  # an error, and not just a bound
    whole = hs.diagonal(hs.Inverse(G, 0.01, tol=1e-6), 2 * G.n)
    assert float((whole.values - exact).norm()) <= whole.error < 1e-2 * float(exact.norm())


def test_a_damping_is_exact_in_every_diagonal():
    M = matrix(SPECTRA["clustered"])
    alone = hs.diagonal(M, 20, seed=3)
    shifted = 2 * (hs.as_operator(M) + 50 * hs.Identity(80))
    found = hs.diagonal(shifted, 20, seed=3)
    torch.testing.assert_close(found.values, 2 * alone.values + 100, rtol=0, atol=1e-12)
    assert found.error == pytest.approx(2 * alone.error)


def test_shifts_multiples_and_scales_keep_the_tolerance():
    M = matrix(SPECTRA["well"])
    inverse = hs.Inverse(M, lambda_min=0.99, tol=1e-4)
    assert inverse.tolerance(5.0) == pytest.approx(1e-4 / 0.99)
    assert (3 * inverse + hs.Identity(80)).tolerance(5.0) == pytest.approx(3e-4 / 0.99)
    assert hs.as_operator(M).tolerance(5.0) == 0.0
    tiny = hs.eigsh(1e-180 * hs.Inverse(M, tol=1e-4), 1, seed=0)  # brought to order one
    exact = 1e-180 * float(1 / torch.linalg.eigvalsh(M)[0])
    assert abs(float(tiny.eigenvalues[0]) - exact) <= float(tiny.residuals[0])
    assert 1e-4 * exact <= float(tiny.residuals[0]) < 1e-2 * exact


def test_float32_has_a_tolerance_that_it_can_reach():
    M = matrix(SPECTRA["well"], dtype=torch.float32)
    inverse = hs.Inverse(M)
    assert inverse.tol == 1e-4
    v = vectors(80, 1).float()
    exact = torch.linalg.solve(M.double(), v.double())
    assert float((inverse @ v - exact).norm()) <= 1e-4 * float(v.norm())
    assert hs.Inverse(M.double()).tol == 1e-8


def test_what_cannot_be_solved_is_told_with_its_cure():
    singular = torch.diag(torch.cat([torch.linspace(1, 2, 30), torch.zeros(10)]).double())
    with pytest.raises(RuntimeError, match=r"not to tol=1e-08.*next to zero.*Give a damping"):
        hs.Inverse(singular) @ torch.ones(40).double()
    for bad in ({"tol": 0.0}, {"damping": float("nan")}, {"max_matvecs": 1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            hs.Inverse(singular, **bad)
    with pytest.raises(ValueError, match="preconditioner of 3 entries"):
        hs.Inverse(singular, 1.0, preconditioner=torch.ones(3))


def test_an_interrupt_of_a_system_ends_the_whole_and_keeps_what_was_found():
    M, calls = matrix(SPECTRA["wide"]), 0

    def matmat(V):
        nonlocal calls
        calls += 1
        if calls == 1200:
            signal.raise_signal(signal.SIGINT)
        return M @ V

    A = hs.as_operator(matmat, 80)
    with pytest.warns(UserWarning, match="interrupted"):
        found = hs.eigsh(hs.Inverse(A, 1e-3), 12, seed=0)
    assert not found.certificate.complete

"""The ledger adds up: by part, by layer, and to the eigenvalue."""

import re

import pytest
import torch
from torch.nn import functional as F

import hesscope as hs
from tests import oracles
from tests.oracles import data, network

X, Y = data(40, 5, 3)


def test_parts_of_an_eigenvector_add_up_to_its_eigenvalue():
    problem = hs.Problem(network(5, 8, 6, 3), F.cross_entropy, (X, Y))
    pairs = hs.eigsh(hs.Hessian(problem), k=5, tol=1e-8)
    ledger = hs.decompose(problem, pairs, per_layer=True)
    total = ledger.gauss_newton + ledger.residual
    assert torch.allclose(total, pairs.eigenvalues, rtol=1e-6, atol=1e-12)
    assert torch.allclose(ledger.curvature, pairs.eigenvalues, rtol=1e-6, atol=1e-12)
    assert torch.allclose(ledger.gauss_newton_by_layer.sum(0), ledger.gauss_newton, atol=1e-14)
    assert torch.allclose(ledger.residual_by_layer.sum(0), ledger.residual, atol=1e-14)
    assert ledger.layers == ("0", "2", "4")
    assert ledger.num_matvecs == 10


def test_parts_equal_dense_quadratic_forms():
    problem = hs.Problem(network(5, 8, 3), F.cross_entropy, (X, Y))
    v = torch.randn(problem.n, dtype=torch.float64)
    unit = v / v.norm()
    ledger = hs.decompose(problem, 7 * v)
    G = oracles.gauss_newton(problem, X, Y)
    assert float(ledger.gauss_newton) == pytest.approx(float(unit @ G @ unit), rel=1e-12)
    R = oracles.hessian(problem, X, Y) - G
    assert float(ledger.residual) == pytest.approx(float(unit @ R @ unit), rel=1e-9)


def test_vectors_of_another_size_are_refused():
    problem = hs.Problem(network(5, 3), F.cross_entropy, (X, Y))
    message = (
        "vectors of shape (4, 1) do not fit n=18 parameters, or one is zero; give (n,), (n, k) or "
        "the result of hs.eigsh(hs.Hessian(problem))."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.decompose(problem, torch.ones(4))

"""Eigenpairs from before a step of training are refused by whoever takes them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import hesscope as hs
from hesscope.krylov.given import checked
from tests.thinning import thinned

TAKERS = {
    "trace": lambda A, pairs: hs.trace(A, pairs=pairs),
    "frobenius_norm": lambda A, pairs: hs.frobenius_norm(A, pairs=pairs),
    "trace_function": lambda A, pairs: hs.trace_function(A, torch.exp, pairs=pairs),
    "logdet": lambda A, pairs: hs.logdet(A, 100.0, pairs=pairs),
    "effective_dimension": lambda A, pairs: hs.effective_dimension(A, 100.0, pairs=pairs),
    "spectral_density": lambda A, pairs: hs.spectral_density(A, 40, deflate=pairs),
}


def network(dtype=torch.float64):
    torch.manual_seed(0)
    data = torch.randn(60, 6, dtype=dtype), torch.arange(60) % 3
    layers = torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3)
    model = torch.nn.Sequential(*layers).to(dtype)
    return model, hs.Problem(model, F.cross_entropy, data), data


@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize("steps", [1, 5])
def test_pairs_from_before_some_steps_of_training_are_refused(name, steps):
    model, problem, (x, y) = network()
    H = hs.Hessian(problem)
    pairs = hs.eigsh(H, 6)
    TAKERS[name](H, pairs)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    with pytest.raises(ValueError, match="not those of the operator as it is now"):
        TAKERS[name](H, pairs)


@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize("k", thinned([2, 1, 7], 3))
def test_pairs_of_the_operator_are_taken_whatever_their_tolerance(name, k):
    torch.manual_seed(1)
    A = hs.as_operator(torch.diag(torch.cat([torch.arange(1.0, 8.0), torch.rand(190)]).double()))
    for seed in range(5):
        pairs = hs.eigsh(A, k, tol=[1e-1, 1e-2, 1e-8][seed % 3], seed=seed)
        assert TAKERS[name](A, pairs).num_matvecs >= 1  # the product that checks them is counted


def test_pairs_of_a_float32_network_are_taken_whatever_their_tolerance():
    _, problem, _ = network(torch.float32)
    H = hs.Hessian(problem)
    for tol in (1e-1, 1e-3, 1e-6):
        for k in (1, 6):
            checked(H, hs.eigsh(H, k, tol=tol), 0)


def test_one_pair_that_is_wrong_among_many_is_found_at_any_place():
    A = hs.as_operator(torch.diag(torch.arange(60.0).double()))
    pairs = hs.eigsh(A, 8, tol=1e-6)
    for i in range(8):
        values = pairs.eigenvalues.clone()
        values[i] += 0.1
        with pytest.raises(ValueError, match=r"off by 0\.1 "):
            checked(A, replace(pairs, eigenvalues=values), i)
        vectors = pairs.eigenvectors.clone()
        vectors[:, i] = float("nan")
        with pytest.raises((ValueError, RuntimeError)):
            checked(A, replace(pairs, eigenvectors=vectors), i)


def test_a_change_within_the_residuals_widens_the_interval_of_the_trace():
    d = torch.cat([torch.tensor([9.0, 8.0, 7.0]), torch.linspace(0, 1, 20)]).double()
    pairs = hs.eigsh(hs.as_operator(torch.diag(d)), 3)
    pairs = replace(pairs, residuals=torch.full((3,), 1e-3).double())
    moved = hs.as_operator(torch.diag(d + 1e-3 * (d > 1)))
    assert checked(moved, pairs, 0).misfit > 1e-3
    estimate = hs.trace(moved, pairs=pairs)
    assert float(d.sum()) + 3e-3 in estimate.interval(0.999)
    assert checked(hs.as_operator(torch.diag(d)), pairs, 0).misfit == 0.0


def test_the_check_is_one_product_of_those_that_are_allowed():
    A = hs.as_operator(torch.diag(torch.arange(300.0).double()))
    pairs = hs.eigsh(A, 3)
    assert hs.spectral_density(A, 40, deflate=pairs).num_matvecs == 40
    assert hs.trace(A, rtol=None, max_matvecs=40, pairs=pairs).num_matvecs == 40


@pytest.mark.parametrize("n", [20, 22])
def test_pairs_of_another_size_are_refused(n):
    A = hs.as_operator(torch.diag(torch.arange(21.0).double()))
    pairs = hs.eigsh(hs.as_operator(torch.diag(torch.arange(float(n)).double())), 2)
    with pytest.raises(ValueError, match=f"have {n} entries, A has n=21"):
        checked(A, pairs, 0)

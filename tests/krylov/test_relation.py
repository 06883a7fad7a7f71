"""Residuals that a run knows of itself are those of the matrix; one that changes is caught."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hesscope as hs
from hesscope.krylov.basis import Basis
from hesscope.krylov.drift import CHANGED
from hesscope.krylov.lanczos import Lanczos, random_start
from tests.spectra import Known, family, random_eigenvalues
from tests.tolerances import most_misses, rounding

DTYPES = (torch.float64, torch.float32)


def dense(values: torch.Tensor, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """A symmetric matrix with these eigenvalues to rounding, and no structure."""
    generator = torch.Generator().manual_seed(seed)
    n = len(values)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    M = (Q * values) @ Q.T
    return ((M + M.T) / 2).to(dtype)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(6, 60),
    seed=st.integers(0, 100_000),
    locked=st.integers(0, 3),
    keep=st.integers(0, 4),
    steps=st.integers(5, 60),
    skew=st.sampled_from([0.0, 1e-3]),
    dtype=st.sampled_from(DTYPES),
)
def test_residual_vectors_are_those_of_the_matrix(n, seed, locked, keep, steps, skew, dtype):
    """Along locked vectors, after restarts, at a breakdown, and where A is not symmetric."""
    M = dense(random_eigenvalues(n, seed), seed, torch.float64)
    size = float(torch.linalg.matrix_norm(M, 2))
    generator = torch.Generator().manual_seed(seed)
    K = torch.randn(n, n, generator=generator, dtype=torch.float64)
    M = (M + skew * size / math.sqrt(n) * (K - K.T) / 2).to(dtype)
    A = hs.as_operator(lambda V: M @ V, n, dtype=dtype)
    basis = Basis(A)
    for i in range(locked):
        basis.extend(A.probe(1000 + i)[:, None])
    run = Lanczos(A, random_start(A, basis, seed), basis)
    while not run.exhausted and run.num_steps < steps:
        run.step()
        if not run.restarted and run.num_steps == 5 and not run.exhausted:
            run.restart(np.arange(5)[::-1][:keep])
    if run.num_steps == 0:
        return
    theta, S, _ = run.ritz()
    R, lost = run.residual_vectors(theta, S)
    X = run.vectors(S).double()
    true = M.double() @ X - X * torch.from_numpy(theta)
    noise = rounding(dtype, 4 + len(theta), size)
    error = (R.double() - true).norm(dim=0).numpy()
    assert (error <= lost + noise).all()
    if skew == 0.0:
        assert (lost <= noise).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_recurrence_alone_would_claim_far_less(dtype):
    A = Known(family("nn", 2000), dtype=dtype, rotate=3)
    run = Lanczos(A, random_start(A, Basis(A), 0), Basis(A))
    for _ in range(60):
        run.step()
    theta, S, claimed = run.ritz()
    R, _ = run.residual_vectors(theta[-1:], S[:, -1:])
    eps = torch.finfo(dtype).eps
    assert claimed[-1] < 1e-20
    assert 0.01 * eps < float(R.norm()) / 10.0 < 10 * eps


@pytest.mark.parametrize("verify", [True, False])
def test_a_search_spends_one_product_on_its_residuals(verify):
    M, asked = torch.diag(family("nn", 500)), []

    def product(V):
        asked.append(V)
        return M @ V

    pairs = hs.eigsh(hs.as_operator(product, 500), 10, verify=verify, seed=0)
    V = torch.cat(asked, 1)
    inside = (pairs.eigenvectors.T @ (V / V.norm(dim=0))).norm(dim=0)
    assert pairs.num_matvecs == V.shape[1]
    assert (inside > 0.999).nonzero().flatten().tolist() == [V.shape[1] - 1]


class Changing(hs.SymmetricOperator):
    """M, and from some product on M + E."""

    def __init__(self, M: torch.Tensor, E: torch.Tensor, after: int) -> None:
        super().__init__(len(M), dtype=M.dtype)
        self.M, self.E, self.after, self.made = M, E, after, 0

    def matmat(self, V):
        self.made += V.shape[1]
        return (self.M if self.made <= self.after else self.M + self.E) @ V


def changed(pairs: hs.Eigenpairs) -> bool:
    """Whether a result says that its operator is another one by now."""
    return any(note.startswith("the operator has changed") for note in pairs.notes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-1, 1e-2, 1e-3])
def test_an_operator_that_changes_at_any_product_is_caught_and_intervals_are_those_of_now(
    size, dtype
):
    M = dense(family("nn", 120), 0, dtype)
    E = size * dense(torch.linspace(-1, 1, 120).double(), 1, dtype)
    exact = torch.linalg.eigvalsh((M + E).double())
    whole = hs.eigsh(Changing(M, E, 10**9), 3, seed=0)
    assert not changed(whole)
    refused, within = "", dtype is torch.float32 and size < 1e-2
    for after in range(1, whole.num_matvecs):
        try:
            pairs = hs.eigsh(Changing(M, E, after), 3, seed=0)
        except RuntimeError as error:
            refused += f"{error}\n"
            continue
        assert changed(pairs) or within  # a hundred roundings
        assert math.isinf(pairs.certificate.upper) == changed(pairs)
        assert not (changed(pairs) and pairs.certificate.complete)
        for value, error in zip(pairs.eigenvalues, pairs.residuals, strict=True):
            assert float((exact - value).abs().min()) <= float(error)
    told = refused.splitlines()
    assert all("not symmetric or not repeatable" in line for line in told)
    assert len(told) < whole.num_matvecs / 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_worst_change_is_missed_as_seldom_as_is_stated(dtype):
    """Of one product only, that of the last pair: P(‖D g‖ <= ε‖D‖) <= 0.8 ε."""
    runs, size, eps = 60, 10.0, torch.finfo(dtype).eps
    drift = 2e3 * eps * size
    values = torch.cat([torch.tensor([10.0, 8.0, 6.0]), torch.linspace(-1, 1, 57)]).double()
    misses = 0
    for seed in range(runs):
        u = torch.eye(60, dtype=dtype)[:, 2:3]
        A = Changing(torch.diag(values.to(dtype)), drift * u @ u.T, 10**9)
        A.after = hs.eigsh(A, 3, seed=seed).num_matvecs - 1
        A.made = 0
        pairs = hs.eigsh(A, 3, seed=seed)
        misses += not changed(pairs)
        if not changed(pairs):  # then it is part of the residual, or within its rounding
            assert abs(drift) <= 1e3 * float(pairs.residuals[2])
    threshold = CHANGED * 4 * eps * size * (math.sqrt(3) + 2)  # ‖g‖ is above with 0.1 %
    assert misses <= most_misses(runs, math.sqrt(2 / math.pi) * threshold / drift)


def test_without_products_left_a_change_is_bounded_by_what_one_product_has_shown():
    M = dense(family("nn", 120), 0, torch.float64)
    E = 1e-3 * dense(torch.linspace(-1, 1, 120).double(), 1, torch.float64)
    spent = hs.eigsh(M, 3, seed=0).num_matvecs
    pairs = hs.eigsh(Changing(M, E, spent - 1), 3, seed=0, max_matvecs=spent)
    assert pairs.num_matvecs == spent
    assert changed(pairs)
    off = (M + E) @ pairs.eigenvectors - pairs.eigenvectors * pairs.eigenvalues
    assert (off.norm(dim=0) <= pairs.residuals).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_thousand_random_matrices_have_an_eigenvalue_in_every_interval(dtype):
    intervals = misses = 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 60))
        M = dense(random_eigenvalues(n, seed), seed, dtype)
        exact = torch.linalg.eigvalsh(M.double())
        k, limit = min(n, int(rng.integers(1, 6))), int(rng.integers(2, 60))
        which, rows = ("LA", "SA", "LM", "BE")[seed % 4], min(n, 2 * k + 10 + seed % 30)
        pairs = hs.eigsh(M, k, which, max_matvecs=limit, max_basis=rows, seed=seed)
        own = rounding(torch.float64, 5 * n, float(exact.abs().max()))  # of the exact ones
        for value, error in zip(pairs.eigenvalues, pairs.residuals, strict=True):
            intervals += 1
            misses += float((exact - value).abs().min()) > float(error) + own
        fresh = (M.double() @ pairs.eigenvectors.double() - pairs.eigenvectors.double()
                 * pairs.eigenvalues).norm(dim=0)  # fmt: skip
        assert (fresh <= pairs.residuals + own).all() or not pairs.converged.all()
    assert intervals > 2000
    assert misses == 0

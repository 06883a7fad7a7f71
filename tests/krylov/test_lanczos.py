"""The Lanczos relation and what follows from it, at every depth."""

from __future__ import annotations

import math
import random
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hesscope as hs
from hesscope.krylov.basis import Basis
from hesscope.krylov.lanczos import (
    Lanczos,
    independent_seed,
    mixed_start,
    random_start,
)
from hesscope.krylov.rows import ROWS
from hesscope.operator import norm
from tests.spectra import Known, random_eigenvalues
from tests.tolerances import rounding

DTYPES = st.sampled_from([torch.float64, torch.float32])
CASES = {
    "n": st.integers(1, 60),
    "seed": st.integers(0, 100_000),
    "scale": st.sampled_from([1e-12, 1.0, 1e12]),
    "dtype": DTYPES,
}


def operator(n: int, seed: int, scale: float, dtype: torch.dtype) -> Known:
    return Known(scale * random_eigenvalues(n, seed), dtype=dtype, rotate=seed)


def grown(A, steps: int, *, seed: int = 0, locked: Basis | None = None) -> Lanczos:
    locked = locked or Basis(A)
    run = Lanczos(A, random_start(A, locked, seed), locked)
    while not run.exhausted and run.num_steps < steps:
        run.step()
    return run


def basis_of(run: Lanczos) -> torch.Tensor:
    return torch.stack([run.Q[j] for j in range(run.num_steps)], 1)


def relation_error(A, run: Lanczos) -> tuple[float, float]:
    """‖A Q - Q T - beta q e'‖ (locked vectors projected out) and ‖Q'Q - I‖."""
    Q = basis_of(run).double()
    L = torch.stack([run.locked[i] for i in range(len(run.locked))], 1).double() if len(
        run.locked
    ) else Q[:, :0]  # fmt: skip
    AQ = (A @ Q).double()
    R = AQ - L @ (L.T @ AQ) - Q @ torch.from_numpy(run.T)
    if not run.exhausted:
        R[:, -1] -= run.residual * run.Q[run.num_steps].double()
    gram = torch.cat([L, Q], 1)
    return float(R.norm()), float((gram.T @ gram - torch.eye(gram.shape[1])).norm())


@settings(max_examples=60, deadline=None)
@given(**CASES)
def test_the_lanczos_relation_holds_at_every_depth_with_an_orthonormal_basis(n, seed, scale, dtype):
    A = operator(n, seed, scale, dtype)
    size = float(A.eigenvalues.abs().max())
    run = grown(A, 0)
    while not run.exhausted:
        run.step()
        relation, orthogonality = relation_error(A, run)
        steps = run.num_steps
        # a run that stops at a breakdown leaves out a beta of at most 100 eps‖A‖
        assert relation <= rounding(dtype, 100 + 10 * steps, size)
        assert orthogonality <= rounding(dtype, 10 * steps, 1.0)
        assert np.abs(np.triu(run.T, 2)).max(initial=0.0) == 0.0
        assert np.array_equal(run.T, run.T.T)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), seed=st.integers(0, 100_000), steps=st.integers(1, 12))
def test_powers_of_t_give_the_moments_of_the_start_vector(n, seed, steps):
    A = operator(n, seed, 1.0, torch.float64)
    run = grown(A, steps)
    v = A.probe(0)
    v = v / v.norm()
    size = float(A.eigenvalues.abs().max())
    T, w, e = run.T, v.clone(), np.eye(run.num_steps)[:, 0]
    for j in range(2 * run.num_steps):  # moments 0 ... 2m-1
        moment = float(e @ np.linalg.matrix_power(T, j) @ e)
        assert abs(moment - float(v @ w)) <= 100 * rounding(torch.float64, n + j, size**j)
        w = A @ w


@settings(max_examples=40, deadline=None)
@given(**CASES)
def test_ritz_residuals_are_the_true_residuals(n, seed, scale, dtype):
    A = operator(n, seed, scale, dtype)
    run = grown(A, 10)
    theta, S, residuals = run.ritz()
    X = run.vectors(S)
    R = (A @ X).double() - X.double() * torch.from_numpy(theta)
    size = float(A.eigenvalues.abs().max())
    error = R.norm(dim=0) - torch.from_numpy(residuals)
    assert error.abs().max() <= rounding(dtype, 300, size)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(4, 50), seed=st.integers(0, 10_000), dtype=DTYPES, k=st.integers(1, 3))
def test_a_run_stays_in_the_complement_of_what_is_locked(n, seed, dtype, k):
    A = operator(n, seed, 1.0, dtype)
    locked = Basis(A)
    for i in range(k):
        locked.extend(A.probe(1000 + i)[:, None])
    run = grown(A, n, locked=locked)
    relation, orthogonality = relation_error(A, run)
    size = float(A.eigenvalues.abs().max())
    assert run.num_steps <= n - k
    assert relation <= rounding(dtype, 100 + 20 * n, size)
    assert orthogonality <= rounding(dtype, 20 * n, 1.0)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(30, 60), seed=st.integers(0, 10_000), dtype=DTYPES, keep=st.integers(0, 8))
def test_a_thick_restart_keeps_the_relation_and_the_first_coefficients(n, seed, dtype, keep):
    A = Known(torch.linspace(-1, 3, n).double(), dtype=dtype, rotate=seed)
    run = grown(A, 12, seed=seed)
    theta, _, _ = run.ritz()
    alpha, beta = list(run.alpha), list(run.beta)
    kept = np.sort(np.random.default_rng(seed).permutation(12)[:keep])
    run.restart(kept)
    assert run.num_steps == keep
    assert np.allclose(np.linalg.eigvalsh(run.T), theta[kept])
    for _ in range(8):
        run.step()
        relation, orthogonality = relation_error(A, run)
        assert relation <= rounding(dtype, 30 * n, 3.0)
        assert orthogonality <= rounding(dtype, 30 * n, 1.0)
    assert (run.alpha, run.beta) == (alpha, beta)
    assert run.asymmetry <= rounding(dtype, 30 * n, 1.0)


def test_the_size_of_a_is_not_forgotten_in_a_restart():
    A = Known(torch.cat([torch.tensor([-50.0]), torch.linspace(0, 1, 39)]).double())
    run = grown(A, 15)
    scale = run.scale
    run.restart(np.arange(10, 15))
    assert run.scale == scale > 10 * np.abs(run.T).max()


# --- breakdown


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("distinct", [1, 2, 3, 7])
def test_a_run_ends_after_as_many_steps_as_there_are_distinct_eigenvalues(distinct, dtype, scale):
    values = torch.linspace(1, 2, distinct).double().repeat(20) * scale
    run = grown(Known(values, dtype=dtype, rotate=0), 100)
    assert run.exhausted
    assert run.num_steps == distinct
    theta, _, residuals = run.ritz()
    expected = values.unique().numpy()
    assert np.abs(theta - expected).max() <= rounding(dtype, 140, 2 * scale)
    assert residuals.max() == 0.0


def test_the_zero_operator_ends_after_one_step():
    run = grown(hs.as_operator(torch.zeros(5, 5)), 10)
    assert (run.num_steps, run.exhausted, run.scale) == (1, True, 0.0)


def test_nothing_is_left_in_a_full_complement():
    A = Known(torch.ones(2).double())
    locked = Basis(A)
    for v in torch.eye(2).double():
        locked.append(v)
    start = random_start(A, locked, 0)
    assert start.share == math.inf
    assert Lanczos(A, start, locked).exhausted


# --- starts


def test_the_share_of_a_random_start_is_one_over_its_squared_norm():
    A = Known(torch.ones(50).double())
    start = random_start(A, Basis(A), 4)
    assert start.share == pytest.approx(1 / float(A.probe(4).square().sum()), rel=1e-14)


def test_a_mixed_start_is_the_unit_warm_vector_and_a_tenth_of_noise():
    A = Known(torch.ones(50).double())
    warm = torch.arange(50.0)
    start = mixed_start(A, warm, 4)
    expected = warm.double() / warm.double().norm() + 0.1 / math.sqrt(50) * A.probe(4)
    assert (start.vector - expected).norm() <= rounding(torch.float64, 50, 1.0)
    assert start.share == pytest.approx(0.01 / 50 / float(expected.square().sum()), rel=1e-12)


def test_the_seed_for_a_warm_start_depends_on_every_bit_of_the_vector_and_on_the_seed():
    warm = torch.randn(40, generator=torch.Generator().manual_seed(0))
    other = warm.clone()
    other[17] = torch.nextafter(other[17], torch.tensor(9.0))
    seeds = {independent_seed(seed, v) for seed in (0, 1) for v in (warm, other, warm.double())}
    assert len(seeds) == 6
    assert independent_seed(0, warm) == independent_seed(0, warm.clone())


# --- basis


@settings(max_examples=25, deadline=None)
@given(size=st.integers(0, 2 * ROWS + 3), seed=st.integers(0, 1000), dtype=DTYPES)
def test_a_basis_projects_and_combines_as_its_matrix_does(size, seed, dtype):
    n = 100
    A = hs.as_operator(lambda V: V, n, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(n, size, generator=generator, dtype=torch.float64))
    Q = Q.to(dtype)
    basis = Basis(A)
    for q in Q.unbind(1):
        basis.append(q)
    w = A.probe(seed)
    rest, coefficients = basis.project_out(w)
    close = rounding(dtype, 10 * n, 1.0)
    assert len(basis) == size
    assert ((coefficients - Q.double().T @ w.double()).abs() <= close).all()
    assert ((rest.double() @ Q.double()).abs() <= close).all()
    S = torch.randn(size, 3, generator=torch.Generator().manual_seed(seed))
    assert ((basis.combine(S) - Q @ S.to(dtype)).abs() <= close).all()


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, ROWS + 5), more=st.integers(1, 5), seed=st.integers(0, 1000))
def test_a_basis_extended_is_orthonormal_spans_the_same_and_a_copy_grows_alone(size, more, seed):
    n = 100
    A = hs.as_operator(lambda V: V, n)
    X = torch.randn(n, size + more, generator=torch.Generator().manual_seed(seed)).double()
    basis = Basis(A)
    basis.extend(X[:, :size])
    other = basis.copy()
    other.extend(X[:, size:])
    Q = torch.stack(list(other), 1)
    close = rounding(torch.float64, 10 * n, 1.0)
    assert (len(basis), len(other)) == (size, size + more)
    assert torch.equal(torch.stack(list(basis), 1), Q[:, :size])
    assert (Q.T @ Q - torch.eye(size + more)).abs().max() <= close
    assert all(norm(A, other.complement(x)) <= close * norm(A, x) for x in X.unbind(1))


def test_a_basis_never_copies_what_it_holds():
    A = hs.as_operator(lambda V: V, 10)
    basis = Basis(A)
    basis.append(A.probe(0))
    place = basis[0].data_ptr()
    for i in range(3 * ROWS):
        basis.append(A.probe(i))
    assert basis[0].data_ptr() == place


# --- faults


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_product_that_is_not_finite_stops_the_run(value):
    run = grown(hs.as_operator(lambda V: V * value, 5), 0)
    with pytest.raises(RuntimeError) as caught:
        run.step()
    assert str(caught.value) == (
        "a product of the operator with a finite vector is NaN or infinite; "
        "hs.check_problem names the cause."
    )


@pytest.mark.parametrize("seed", range(10))
def test_an_asymmetric_matrix_is_noticed_within_three_steps(seed):
    M = torch.randn(40, 40, generator=torch.Generator().manual_seed(seed))
    with pytest.raises(RuntimeError, match="the operator is not symmetric or not repeatable"):
        grown(hs.as_operator(M.double()), 3)


def test_rounding_is_not_taken_for_asymmetry():
    run = grown(operator(60, 1, 1.0, torch.float32), 60)
    assert run.asymmetry <= rounding(torch.float32, 60, 1.0)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="interrupts by a timer of POSIX")
def test_an_interrupted_run_is_whole_and_goes_on():
    """Without care 6 % of such interrupts left a row of T without its beta."""

    def stop(*_):
        raise KeyboardInterrupt

    A = hs.as_operator(torch.diag(torch.linspace(0, 1, 100).double()))
    times, cut = random.Random(0), 0
    own = signal.signal(signal.SIGPROF, stop)
    try:
        for seed in range(100):
            run = Lanczos(A, random_start(A, Basis(A), seed), Basis(A))
            signal.setitimer(signal.ITIMER_PROF, times.uniform(5e-4, 8e-3))
            try:
                while not run.exhausted:
                    run.step()
                signal.setitimer(signal.ITIMER_PROF, 0)
            except KeyboardInterrupt:
                cut += 1
            assert len(run.alpha) == len(run.beta) == len(run.T)
            assert len(run.Q) == len(run.T) + (not run.exhausted)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, own)
    assert cut > 50

"""Linear systems: true residuals, errors where they are known, and no claim about what is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator
from torch.nn import functional as F

import hesscope as hs


def matrix(values, seed=0, dtype=torch.float64):
    """The matrix with these eigenvalues and random eigenvectors."""
    n, generator = len(values), torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    M = (Q * torch.as_tensor(values, dtype=torch.float64)) @ Q.T
    return ((M + M.T) / 2).to(dtype)


def vectors(n, k, seed=1):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SPECTRA = {
    "well": np.linspace(1, 2, 80),
    "clustered": np.r_[np.full(75, 1e-2), [1, 2, 3, 5, 8]],
    "wide": np.geomspace(1e-4, 1, 80),
    "indefinite": np.r_[np.linspace(-1, -0.1, 30), np.linspace(0.05, 3, 50)],
    "negative": -np.linspace(1, 4, 80),
}


@pytest.mark.parametrize("method", ["cg", "minres"])
@pytest.mark.parametrize("name", ["well", "clustered", "wide"])
def test_definite_systems_against_the_dense_solution(name, method):
    M, b = matrix(SPECTRA[name]), vectors(80, 3)
    low = 0.999 * float(SPECTRA[name].min())
    s = hs.solve(M, b, tol=1e-8, method=method, lambda_min=low, max_matvecs=900)
    exact = torch.linalg.solve(M, b)
    assert bool(s.converged.all())
    assert ((b - M @ s.x).norm(dim=0) <= s.residuals).all()
    assert ((s.x - exact).norm(dim=0) <= s.errors).all()
    assert ((s.quadratic - (b * exact).sum(0)).abs() <= s.quadratic_errors).all()
    assert not s.negative_curvature


@pytest.mark.parametrize("name", ["indefinite", "negative"])
def test_indefinite_systems_are_solved_and_the_direction_is_a_proof(name):
    M, b = matrix(SPECTRA[name]), vectors(80, 1)[:, 0]
    s = hs.solve(M, b, tol=1e-9)
    assert s.method == "minres"
    assert bool(s.converged.all())
    assert float((b - M @ s.x).norm()) <= float(s.residuals[0])
    v = s.direction
    assert float(v @ M @ v) == pytest.approx(s.curvature, rel=1e-6)
    assert s.curvature < 0
    assert math.isinf(float(s.errors[0]))
    assert "no minimum of it" in str(s)
    with pytest.raises(RuntimeError, match="Give a damping above"):
        hs.solve(M, b, method="cg")
    with pytest.raises(RuntimeError, match="although lambda_min"):
        hs.solve(M, b, lambda_min=0.01)


def test_the_damping_that_the_refusal_names_is_enough_in_time():
    M, b = matrix(SPECTRA["indefinite"]), vectors(80, 1)[:, 0]
    damped = hs.solve(M, b, damping=1.01, method="cg")
    assert bool(damped.converged.all())
    exact = torch.linalg.solve(M + 1.01 * torch.eye(80).double(), b)
    assert float((damped.x - exact).norm()) < 1e-2 * float(exact.norm())


def test_a_right_hand_side_outside_of_the_range_is_told_and_solved_in_least_squares():
    values = np.r_[np.zeros(40), np.linspace(1, 2, 40)]
    M, b = matrix(values), vectors(80, 1)[:, 0]
    s = hs.solve(M, b, tol=1e-8)
    assert not bool(s.converged.any())
    assert "least-squares" in s.notes[0]
    assert float(s.residuals[0]) == pytest.approx(
        float((b - M @ torch.linalg.lstsq(M, b[:, None], driver="gelsd").solution[:, 0]).norm()),
        rel=1e-6,
    )
    inside = hs.solve(M, M @ b, tol=1e-8)
    assert bool(inside.converged.all())
    assert inside.notes == ()


def test_products_are_those_of_conjugate_gradients_and_the_check():
    """In exact arithmetic five distinct eigenvalues need five products."""
    M, b = matrix(np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 16)), vectors(80, 1)[:, 0]
    for method in ("cg", "minres"):
        s = hs.solve(M, b, tol=1e-10, method=method)
        assert s.num_matvecs == 6
        assert len(s.history[0]) == 5


def test_the_recurrence_knows_the_residual_of_each_step():
    M, b = matrix(SPECTRA["wide"]), vectors(80, 1)[:, 0]
    for method in ("cg", "minres"):
        history = hs.solve(M, b, tol=1e-6, method=method).history[0]
        for steps in (1, 2, 7, 20):
            short = hs.solve(M, b, tol=1e-12, method=method, max_matvecs=steps + 1)
            true = float((b - M @ short.x).norm() / b.norm())
            if method == "minres" or true < 1:  # CG's residual may grow before it falls
                assert history[steps - 1] == pytest.approx(true, rel=1e-8)


def test_later_right_hand_sides_start_from_what_is_known():
    M, b = matrix(SPECTRA["wide"]), vectors(80, 1)
    alone = hs.solve(M, b, tol=1e-6).num_matvecs
    near = b + 1e-3 * vectors(80, 1, seed=2)
    both = hs.solve(M, torch.cat([b, b, near], 1), tol=1e-6)
    assert bool(both.converged.all())
    assert both.num_matvecs < 2.2 * alone


def test_restarts_with_little_memory_reach_the_same():
    M, b = matrix(SPECTRA["well"]), vectors(80, 1)
    s = hs.solve(M, b, tol=1e-10, max_basis=6)
    assert bool(s.converged.all())
    torch.testing.assert_close(s.x, torch.linalg.solve(M, b), rtol=1e-8, atol=1e-9)


def test_a_start_near_the_solution_is_used():
    M, b = matrix(SPECTRA["wide"]), vectors(80, 1)
    exact = torch.linalg.solve(M, b)
    cold = hs.solve(M, b, tol=1e-6)
    warm = hs.solve(M, b, tol=1e-6, x0=exact + 1e-4 * vectors(80, 1, seed=3))
    assert warm.num_matvecs < cold.num_matvecs
    assert hs.solve(M, b, tol=1e-6, x0=exact).num_matvecs == 1


def test_float32_says_what_rounding_leaves():
    M = matrix(SPECTRA["wide"], dtype=torch.float32)
    b = vectors(80, 1).float()
    s = hs.solve(M, b, tol=1e-9)
    assert not bool(s.converged.any())
    assert s.notes != ()
    true = (b.double() - M.double() @ s.x.double()).norm()
    assert float(true) <= float(s.residuals[0])
    assert bool(hs.solve(M, b, damping=0.1, tol=1e-5).converged.all())


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_systems_of_any_size(scale):
    M, b = matrix(SPECTRA["well"]), vectors(80, 1)
    s = hs.solve(scale * M, b, tol=1e-8, damping=scale)
    exact = torch.linalg.solve(M + torch.eye(80).double(), b)
    assert bool(s.converged.all())
    torch.testing.assert_close(s.x * scale, exact, rtol=1e-6, atol=1e-9)


def test_zero_is_solved_by_zero_without_a_product():
    s = hs.solve(matrix(SPECTRA["well"]), torch.zeros(80).double())
    assert s.num_matvecs == 0
    assert not bool(s.x.any())
    assert bool(s.converged.all())


# --- preconditioners


def test_preconditioners_save_products_and_change_no_answer():
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, 3, 80, dtype=torch.float64)
    inner = matrix(np.linspace(1, 3, 80))
    M = scales[:, None].sqrt() * inner * scales.sqrt()
    b = torch.randn(80, generator=generator, dtype=torch.float64)
    exact = torch.linalg.solve(M, b)
    plain = hs.solve(M, b, tol=1e-8)
    for P in (M.diagonal(), hs.diagonal(M, 160), _Inverse(M.diagonal())):
        s = hs.solve(M, b, tol=1e-8, preconditioner=P)
        assert bool(s.converged.all())
        assert s.num_matvecs < plain.num_matvecs / 2
        torch.testing.assert_close(s.x, exact, rtol=1e-5, atol=1e-9)


class _Inverse:
    def __init__(self, diagonal):
        self.diagonal = diagonal

    def __matmul__(self, v):
        return v / self.diagonal


def test_eigenpairs_take_outliers_out_of_a_system():
    M, b = matrix(np.r_[np.linspace(0.9, 1.1, 70), np.geomspace(10, 1e4, 10)]), vectors(80, 1)
    pairs = hs.eigsh(M, 10, tol=1e-8)
    plain = hs.solve(M, b, damping=0.1, tol=1e-8)
    s = hs.solve(M, b, damping=0.1, tol=1e-8, preconditioner=pairs)
    assert bool(s.converged.all())
    assert s.num_matvecs < plain.num_matvecs
    torch.testing.assert_close(
        s.x, torch.linalg.solve(M + 0.1 * torch.eye(80).double(), b), rtol=1e-5, atol=1e-9
    )


def test_a_preconditioned_indefinite_system_knows_its_direction():
    M, b = matrix(SPECTRA["indefinite"]), vectors(80, 1)
    s = hs.solve(M, b, tol=1e-8, preconditioner=torch.linspace(1, 2, 80).double())
    assert bool(s.converged.all())
    assert float(s.direction @ M @ s.direction) == pytest.approx(s.curvature, rel=1e-6)


# --- what is given


@pytest.mark.parametrize(("options", "words"), [
    ({"tol": 0.0}, "tol"), ({"damping": math.nan}, "damping"), ({"method": "gmres"}, "minres"),
    ({"lambda_min": math.nan}, "lower bound"), ({"max_matvecs": 1}, "two products"),
    ({"x0": torch.ones(7)}, "x0"), ({"max_basis": 1}, "max_basis"),
    ({"preconditioner": torch.zeros(80)}, "positive"), ({"preconditioner": torch.ones(3)}, "80"),
    ({"preconditioner": _Inverse(torch.ones(3, 3))}, "gives|size"),
])  # fmt: skip
def test_arguments_are_refused_by_name(options, words):
    with pytest.raises((ValueError, RuntimeError), match=words):
        hs.solve(matrix(SPECTRA["well"]), torch.ones(80).double(), **options)


@pytest.mark.parametrize(
    "b", [torch.ones(3), torch.full((80,), math.nan), [1.0] * 80, torch.ones(80, 0)]
)
def test_a_right_hand_side_that_is_none_is_refused(b):
    with pytest.raises(ValueError, match=r"^b "):
        hs.solve(matrix(SPECTRA["well"]), b)


def test_an_interrupt_returns_what_was_reached():
    M, calls = matrix(SPECTRA["wide"]), []

    def product(V):
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return M @ V

    A, b = hs.as_operator(product, 80, dtype=torch.float64), vectors(80, 1)
    with pytest.warns(UserWarning, match="interrupted"):
        s = hs.solve(A, b, tol=1e-8)
    assert not bool(s.converged.any())
    assert float((b - M @ s.x).norm()) <= float(s.residuals[0]) < float(b.norm())


def test_it_is_saved_and_read(tmp_path):
    s = hs.solve(matrix(SPECTRA["indefinite"]), vectors(80, 2), tol=1e-6)
    hs.save(s, tmp_path / "s")
    again = hs.load(tmp_path / "s")
    assert str(again) == str(s)
    assert torch.equal(again.x, s.x)
    assert torch.equal(again.direction, s.direction)
    assert len(s.to_pandas()) == 2


def test_the_newton_decrement_of_a_quadratic_is_what_it_falls_by():
    M, start = matrix(SPECTRA["well"]), vectors(80, 1)[:, 0]
    p = hs.Problem.from_function(lambda t: 0.5 * t @ M @ t, start)
    s = hs.solve(hs.Hessian(p), p.gradient(), tol=1e-10)
    assert float(s.decrement[0]) ** 2 / 2 == pytest.approx(p.loss(), rel=1e-9)


def test_a_gauss_newton_matrix_with_damping_is_certainly_definite():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    data = torch.randn(30, 4).double(), torch.arange(30) % 3
    p = hs.Problem(model.double(), F.cross_entropy, data)
    G = hs.GaussNewton(p)
    s = hs.solve(G, p.gradient(), damping=1e-2, tol=1e-8)
    assert s.method == "cg"
    assert s.lambda_min == pytest.approx(1e-2)
    exact = torch.linalg.solve(G.to_dense() + 1e-2 * torch.eye(p.n).double(), p.gradient())
    assert float((s.x - exact).norm()) <= float(s.errors[0])


@pytest.mark.slow
def test_five_hundred_random_systems_never_have_a_larger_residual_than_they_say():
    rng, wrong, converged = np.random.default_rng(0), 0, 0
    for run in range(500):
        n = int(rng.integers(2, 60))
        values = rng.standard_normal(n) * 10.0 ** rng.uniform(-8, 2, n)
        if run % 3 == 0:
            values = np.abs(values)
        if run % 7 == 0:
            values[: n // 2] = 0.0
        dtype = torch.float32 if run % 5 == 0 else torch.float64
        M = matrix(values, seed=run, dtype=dtype)
        M64, b = M.double(), vectors(n, 1 + run % 3, seed=run).to(dtype)
        damping = float(10.0 ** rng.uniform(-6, 0)) if run % 2 else 0.0
        method = "minres" if run % 4 else "auto"
        P = torch.rand(n, dtype=torch.float64) + 0.1 if run % 6 == 1 else None
        tol, rows = 10.0 ** rng.uniform(-10, -2), int(rng.integers(5, 80))
        s = hs.solve(
            M, b, damping, tol=tol, method=method, preconditioner=P, max_basis=rows, max_matvecs=200
        )
        true = (b.double() - M64 @ s.x.double() - damping * s.x.double()).norm(dim=0)
        slack = (M64.norm() + damping) * s.x.double().norm(dim=0) + b.double().norm(dim=0)
        slack *= 1e-15  # of the line before
        wrong += int((true > s.residuals + slack).sum())
        converged += int(s.converged.all())
        lowest = float(np.min(values)) + damping
        if s.negative_curvature:
            assert lowest < 1e-6 * np.abs(values).max()
    assert wrong == 0
    assert converged > 150


def test_a_scipy_operator_is_taken():
    M = matrix(SPECTRA["well"]).numpy()
    s = hs.solve(LinearOperator(M.shape, matvec=lambda v: M @ v, dtype=M.dtype), torch.ones(80))
    assert bool(s.converged.all())

"""Operators: their algebra, their inner product, their doors, and the check of foreign ones."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh as arpack

import hesscope as hs
from hesscope.operator import inner, parts
from hesscope.operator.inner import accumulated_inner
from hesscope.operator.parts import CHUNK
from tests.spectra import Known, family
from tests.tolerances import rounding


def random_symmetric(n: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    matrix = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((matrix + matrix.T) / 2).to(dtype)


# --- law


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    a=st.floats(-100, 100, allow_subnormal=False),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@example(n=1, seed=0, a=2.6397515279256787e-41, dtype=torch.float32)  # subnormal products
@example(n=1, seed=606, a=0.0, dtype=torch.float32)  # A + B that nearly cancel
@example(n=1, seed=2326, a=0.0, dtype=torch.float64)
@example(n=7, seed=1, a=1e-300, dtype=torch.float64)  # squares that underflow
def test_the_algebra_of_operators_is_that_of_matrices(n, seed, a, dtype):
    M, N = random_symmetric(n, seed, dtype), random_symmetric(n, seed + 1, dtype)
    A, B = hs.as_operator(M), hs.as_operator(N)
    V = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)
    close = 4 * rounding(dtype, n, (1 + abs(a)) * float(M.norm() + N.norm()) * float(V.norm()))
    for operator, matrix in (
        (A + B, M + N),
        (A - B, M - N),
        (a * A, a * M),
        (A * a, a * M),
        (-A, -M),
        (2 * A - 3 * (B + A), 2 * M - 3 * (N + M)),
    ):
        assert (operator @ V - matrix @ V).norm() <= close
        assert (operator.to_dense() - matrix).norm() <= close
        assert hs.check_operator(operator).ok


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 200), chunk=st.integers(1, 250), seed=st.integers(0, 100))
def test_to_dense_is_the_matrix_for_every_chunk(n, chunk, seed):
    M = random_symmetric(n, seed)
    A = hs.as_operator(lambda V: M @ V, n)
    assert (A.to_dense(chunk=chunk) - M).abs().max() <= rounding(torch.float64, 1, n)


def test_to_dense_of_a_matrix_is_a_copy():
    M = torch.eye(3)
    hs.as_operator(M).to_dense()[0, 0] = 7.0
    assert M[0, 0] == 1.0


def test_promotion_takes_the_wider_dtype():
    A, B = hs.as_operator(torch.eye(2)), hs.as_operator(torch.eye(2).double())
    assert (A + B).dtype == torch.float64
    assert ((A + B) @ torch.ones(2)).dtype == torch.float64


def test_a_product_brings_the_vector_to_the_operators_dtype():
    assert (hs.as_operator(torch.eye(2)) @ torch.ones(2).double()).dtype == torch.float32


def test_as_operator_returns_operators_as_they_are():
    A = hs.as_operator(torch.eye(2))
    assert hs.as_operator(A) is A


def test_facts_name_the_combination():
    A = Known(torch.ones(3))
    assert (2 * A - A).facts()["operator"] == "2 Known - Known"
    assert A.facts() == {"operator": "Known", "n": 3, "dtype": "torch.float64"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_to_scipy_gives_arpack_the_known_spectrum(dtype):
    A = Known(family("nn", 200), dtype=dtype, rotate=0)
    S = A.to_scipy()
    assert S.shape == (200, 200)
    assert S.dtype == np.zeros(0, dtype=str(dtype).removeprefix("torch.")).dtype
    found = np.sort(arpack(S, 5, which="LA", return_eigenvectors=False))[::-1]
    assert np.abs(found - A.eigenvalues[:5].numpy()).max() <= rounding(dtype, 200, 10.0)
    v = np.ones(200)
    assert np.allclose(S.matvec(v), S.matmat(v[:, None])[:, 0])
    assert np.allclose(S.rmatvec(v), S.matvec(v))


# --- inner products


@pytest.mark.parametrize("n", [1, CHUNK, CHUNK + 1, 3 * CHUNK - 1, 100_003])
@pytest.mark.parametrize("shapes", [(1, 1), (5, 1), (3, 4)])
def test_inner_products_agree_with_float64_at_every_length(n, shapes):
    generator = torch.Generator().manual_seed(n)
    V, W = (torch.randn(n, k, generator=generator) for k in shapes)
    exact = V.double().T @ W.double()
    size = V.double().norm(dim=0)[:, None] * W.double().norm(dim=0)
    found = accumulated_inner(V, W)
    assert found.dtype == torch.float64
    assert found.shape == shapes
    assert ((found - exact).abs() / size).max() <= 1e-12


def test_float32_inner_products_of_a_million_entries_are_right_to_1e_7():
    v = hs.as_operator(lambda V: V, 1_000_000, dtype=torch.float32).probe(0)
    v, w = v / v.double().norm().float(), torch.full((1_000_000,), 1e-3)
    for a, b in ((v, v), (v, w), (w, w)):
        exact = float(a.double() @ b.double())
        assert abs(float(accumulated_inner(a[:, None], b[:, None])) - exact) <= 1e-7


def test_inner_products_of_rows_stored_as_columns_are_the_same():
    rows = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(0))
    w = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1))
    expected = accumulated_inner(rows.T.contiguous(), w)
    assert (accumulated_inner(rows.T, w) - expected).abs().max() <= 1e-12 * 20_000


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("add", [torch.addmm, inner._add_thin])
def test_the_sums_of_a_gpu_are_those_of_the_cpu(k, add):
    """Both ways to add up, in chunks of any size: what differs is the order of additions."""
    V, w = torch.randn(1_000, k, dtype=torch.float32), torch.randn(1_000, 1, dtype=torch.float32)
    exact = V.double().T @ w.double()
    assert (inner._by_chunks(V, w, 300, add) - exact).abs().max() <= 1e-12


@pytest.mark.parametrize("n", [CHUNK - 1, CHUNK, 3 * CHUNK, 3 * CHUNK + 17])
def test_dot_products_in_one_batch_lose_no_more_than_pieces(n):
    rows, w = torch.ones(3, n, dtype=torch.float32) / 3, torch.ones(n, dtype=torch.float32) / 7
    exact = rows.double() @ w.double()
    bound = CHUNK * 2.0**-24  # a priori, of a sum of CHUNK positive terms, whatever n is
    assert ((parts._mv(rows, w) - exact) / exact).abs().max() <= bound
    assert parts._mv(rows, w).dtype == torch.float64


# --- check_operator


class Broken:
    """A product with chosen faults: calls counted, so that the noise is not the generator's."""

    def __init__(self, *, random: bool, nonlinear: bool, skew: bool, n: int = 50) -> None:
        self.random, self.nonlinear, self.skew = random, nonlinear, skew
        self.M = random_symmetric(n, 0)
        self.calls = 0

    def __call__(self, V):
        self.calls += V.shape[1]
        W = self.M @ V
        if self.random:
            W = W + 0.01 * self.calls * V
        if self.nonlinear:
            W = W + 0.1 * V.square()
        if self.skew:
            W = W + 0.1 * self.M.triu() @ V
        return W


CAUSES = ("deterministic", "linear", "symmetric")


@pytest.mark.parametrize("faults", [*itertools.product([False, True], repeat=3)])
def test_check_operator_names_the_first_cause(faults):
    product = Broken(**dict(zip(("random", "nonlinear", "skew"), faults, strict=True)))
    check = hs.check_operator(hs.as_operator(product, 50))
    assert check.num_matvecs == product.calls
    first = [name for name, present in zip(CAUSES, faults, strict=True) if present][:1]
    assert [finding.name for finding in check.faults] == first
    assert check.ok == (not first)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("bad_call", [1, 2, 3, 4])
def test_check_operator_sees_a_non_finite_product_in_any_call(value, bad_call):
    calls = []

    def product(V):
        calls.append(1)
        return V * (value if len(calls) == bad_call else 1.0)

    check = hs.check_operator(hs.as_operator(product, 9))
    assert [finding.name for finding in check.faults] == ["finite"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 1000])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_check_operator_passes_symmetric_matrices_of_every_scale(dtype, n, scale):
    assert hs.check_operator(hs.as_operator(scale * random_symmetric(n, n, dtype))).ok


@pytest.mark.parametrize(("dtype", "asymmetry"), [(torch.float32, 1e-2), (torch.float64, 1e-6)])
def test_check_operator_sees_an_asymmetry_well_above_rounding(dtype, asymmetry):
    M = random_symmetric(200, 0, torch.float64)
    skew = M.triu(1) - M.triu(1).T
    check = hs.check_operator(hs.as_operator((M + asymmetry * skew).to(dtype)))
    assert [finding.name for finding in check.faults] == ["symmetric"]


def test_check_operator_accepts_the_zero_operator():
    check = hs.check_operator(hs.as_operator(torch.zeros(4, 4)))
    assert check.ok
    assert check.findings == ()


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e-30), (torch.float64, 1e-290)])
def test_check_operator_sees_an_asymmetry_also_where_squares_underflow(dtype, scale):
    M = random_symmetric(20, 0) + 1e-2 * torch.randn(20, 20).double().triu(1)
    check = hs.check_operator((scale * M).to(dtype))
    assert [finding.name for finding in check.faults] == ["symmetric"]


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e-41), (torch.float64, 1e-315)])
def test_check_operator_notes_that_subnormal_products_show_little(dtype, scale):
    check = hs.check_operator((scale * random_symmetric(20, 0)).to(dtype))
    assert check.ok
    assert [finding.name for finding in check.findings] == ["tiny"]
    assert "products this small lose digits: only relative errors above" in str(check)


def test_check_operator_measures_a_sum_by_its_summands():
    """What cancels leaves the rounding errors of its parts, which are no fault of the sum."""
    M = random_symmetric(50, 0, torch.float32)
    noise = 1e-7 * random_symmetric(50, 1, torch.float32)
    A, B = hs.as_operator(M), hs.as_operator(lambda V: (M + noise) @ V, 50, dtype=torch.float32)
    check = hs.check_operator(A - B)
    assert check.ok
    assert check.num_matvecs == 7
    skew = hs.as_operator(M + 1e-2 * torch.ones(50, 50).triu(1))
    assert [finding.name for finding in hs.check_operator(A - skew).faults] == ["symmetric"]


@pytest.mark.parametrize("wrong", [lambda V: V[:, 0], lambda V: V.float(), lambda V: None])
def test_check_operator_names_a_product_of_another_form(wrong):
    check = hs.check_operator(hs.as_operator(wrong, 9))
    assert [finding.name for finding in check.faults] == ["form"]
    assert check.num_matvecs == 1
    assert check.faults[0].cause.startswith("`matmat` returned a ")


def test_a_fault_is_printed_with_its_cause_and_cure():
    check = hs.check_operator(hs.as_operator(torch.tensor([[0.0, 1.0], [0.0, 0.0]])))
    lines = str(check).splitlines()
    assert lines[0].startswith("check: 1 fault (")
    assert lines[1].startswith("  FAULT symmetric: u'Av is not v'Au (relative error ")
    assert (
        lines[2].strip() == "-> multiply with (A + A')/2, or check the transpose inside `matmat`."
    )


# --- door


def assert_refused(expected, function, *args, **kwargs):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the message is matched in full
        function(*args, **kwargs)
    assert str(caught.value) == expected


def test_as_operator_refuses_what_is_no_operator():
    assert_refused(
        "a matrix of shape (2, 3) is not square; an operator is n x n.",
        hs.as_operator,
        torch.zeros(2, 3),
    )
    assert_refused(
        "a matrix of shape (3,) is not square; an operator is n x n.",
        hs.as_operator,
        torch.zeros(3),
    )
    ways = (
        "give one such as hs.Hessian(problem), a square tensor or array, a SciPy operator, or "
        "hs.as_operator(function, n)."
    )
    assert_refused(f"int is no operator; {ways}", hs.as_operator, 3)
    assert_refused(f"function is no operator; {ways}", hs.as_operator, lambda V: V)
    assert_refused(
        "dtype=torch.int64: an operator needs a real floating dtype such as torch.float64; "
        "give A.double(), or A.astype(float) of an array.",
        hs.as_operator,
        torch.eye(2).long(),
    )
    assert_refused(
        "dtype=torch.complex64: an operator needs a real floating dtype such as torch.float64.",
        hs.as_operator,
        torch.eye(2).to(torch.complex64),
    )
    assert_refused("n=0: an operator needs at least one row.", hs.as_operator, lambda V: V, 0)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 2, 2), ()])
def test_a_product_refuses_other_shapes(shape):
    assert_refused(
        f"cannot multiply an operator of size 2 x 2 with a tensor of shape {shape}; "
        "give shape (2,) or (2, k).",
        hs.as_operator(torch.eye(2)).__matmul__,
        torch.zeros(shape),
    )


def test_operators_of_other_sizes_are_not_combined():
    A, B = hs.as_operator(torch.eye(2)), hs.as_operator(torch.eye(3))
    assert_refused("cannot combine an operator of size 2 on cpu with one of size 3 on cpu.",
            A.__add__, B)  # fmt: skip


@pytest.mark.parametrize("other", [1.0, "a", None])
def test_sums_with_anything_else_are_type_errors(other):
    A = hs.as_operator(torch.eye(2))
    with pytest.raises(TypeError):
        A + other
    with pytest.raises(TypeError):
        A - other
    with pytest.raises(TypeError):
        A * "a"

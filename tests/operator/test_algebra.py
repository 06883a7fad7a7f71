"""Operators as people know them: shape, factors, shifts, row vectors; what is known passes on."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hesscope as hs
from hesscope.operator import Combination
from tests.oracles import data, network
from tests.spectra import Known
from tests.tolerances import rounding

VALUES = torch.arange(1.0, 41.0).double()


def ladder(dtype: torch.dtype = torch.float64) -> hs.SymmetricOperator:
    """diag(1, ..., 40)."""
    return hs.as_operator(torch.diag(VALUES).to(dtype))


def classifier() -> hs.Problem:
    """A perceptron with more parameters than rows of its Jacobian."""
    return hs.Problem(network(5, 8, 3), torch.nn.CrossEntropyLoss(), data(12, 5, 3))


# --- one number times an operator


FACTORS = (
    2,
    2.0,
    Fraction(2),
    np.float64(2),
    np.float32(2),
    np.int64(2),
    np.array(2.0),
    np.array([2]),
    torch.tensor(2.0),
    torch.tensor([2.0]),
    torch.tensor(2),
    torch.nn.Parameter(torch.tensor(2.0)),
)


@pytest.mark.parametrize("factor", FACTORS, ids=lambda x: type(x).__name__)
def test_a_factor_may_be_written_in_any_way(factor):
    A, v = ladder(), torch.ones(40).double()
    for operator in (A * factor, factor * A, A / (1 / factor)):
        assert torch.equal(operator @ v, 2 * VALUES)
        assert operator.dtype == torch.float64


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (True, "True is a truth value, and a factor of an operator is a number; give 1 or 0."),
        (np.bool_(True), "True is a truth value, and a factor of an operator is a number; "),
        (torch.tensor(True), "True is a truth value, and a factor of an operator is a number; "),
        (2j, "2j times a symmetric operator is not real; give a real factor."),
        (torch.tensor(2j), "2j times a symmetric operator is not real; give a real factor."),
        (torch.ones(40), "a factor of an operator is one number, not a Tensor of shape (40,); a "),
        (np.ones((2, 3)), "a factor of an operator is one number, not a ndarray of shape (2, 3); "),
    ],
)
def test_what_is_not_one_real_number_is_refused_as_a_factor(factor, message):
    A = ladder()
    for product in (lambda: A * factor, lambda: factor * A, lambda: A / factor):
        with pytest.raises(TypeError) as caught:
            product()
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize("factor", [math.nan, math.inf, torch.tensor(-math.inf), np.float32("nan")])
def test_factors_are_finite(factor):
    for product in (lambda: ladder() * factor, lambda: factor * ladder()):
        with pytest.raises(ValueError, match=r"^(-?inf|nan) is no factor of an operator; give a f"):
            product()
    with pytest.raises(ValueError, match=r"^the factors \[inf\] of a combination overflow; give "):
        1e200 * (1e200 * ladder())


def test_division_by_zero_and_of_a_number_is_refused():
    with pytest.raises(ValueError, match=r"^an operator cannot be divided by zero; give another"):
        ladder() / 0
    with pytest.raises(TypeError):
        2 / ladder()
    with pytest.raises(TypeError):
        ladder() / "2"


# --- sums with numbers: the diagonal, or every entry?


@pytest.mark.parametrize(
    ("ask", "written"),
    [
        (lambda A: A + 0.1, "A + 0.1 * hs.Identity(40)."),
        (lambda A: 0.1 + A, "0.1 * hs.Identity(40) + A."),
        (lambda A: A - 0.1, "A - 0.1 * hs.Identity(40)."),
        (lambda A: 2 - A, "2 * hs.Identity(40) - A."),
        (lambda A: torch.tensor(2.0) - A, "2 * hs.Identity(40) - A."),
        (lambda A: np.float64(2) - A, "2 * hs.Identity(40) - A."),
    ],
)
def test_a_number_is_not_added_but_the_way_to_shift_is_told(ask, written):
    with pytest.raises(TypeError) as caught:
        ask(ladder())
    assert str(caught.value) == (
        "an operator and a number have no sum: it could be added to the diagonal or to every "
        f"entry. For the eigenvalues shifted by it write {written}"
    )


def test_a_matrix_is_added_after_it_was_wrapped():
    for ask in (lambda A: A + torch.eye(40), lambda A: np.eye(40) - A):
        with pytest.raises(TypeError, match=r"added as operators: wrap it with hs\.as_operator\."):
            ask(ladder())


def test_pythons_sum_begins_with_zero():
    A, v = ladder(), torch.ones(40).double()
    assert torch.equal(sum([A, A, A]) @ v, 3 * VALUES)
    assert torch.equal((0 - A) @ v, -VALUES)
    assert (A + 0) is A


# --- products


def test_row_vectors_stand_on_the_left():
    A, V = ladder(), torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(V[:, 0] @ A, A @ V[:, 0])
    assert torch.equal(V.T @ A, (A @ V).T)
    assert torch.equal(V.numpy().T @ A, (A @ V).T)
    assert torch.equal(A @ V.numpy(), A @ V)
    for left in (torch.ones(3), torch.ones(40, 3), torch.ones(2, 2, 40), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"cannot multiply a tensor of shape .* with an op"):
            left @ A


def test_operators_are_not_multiplied_with_each_other_nor_with_lists():
    A = ladder()
    with pytest.raises(TypeError) as caught:
        A @ A
    assert str(caught.value) == (
        "the product of two symmetric operators is not symmetric in general; for its product "
        "with vectors write A @ (B @ V)."
    )
    with pytest.raises(TypeError, match=r"^cannot multiply an operator with a list; give a tens"):
        A @ [1.0] * 40
    with pytest.raises(TypeError, match=r"^cannot multiply a real operator with torch\.complex64;"):
        A @ torch.ones(40).to(torch.complex64)


WRONG = {
    "a vector": lambda V: V[:, 0],
    "float32": lambda V: V.float(),
    "integers": lambda V: V.long(),
    "rows": lambda V: V[1:],
    "none": lambda V: None,
    "numpy": lambda V: V.numpy(),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_product_of_another_form_is_refused_by_everyone(name):
    A = hs.as_operator(WRONG[name], 40)
    asks = (
        lambda: A @ torch.ones(40),
        lambda: (2 * A - A) @ torch.ones(40),
        lambda: A.to_dense(),
        lambda: hs.eigsh(A),
        lambda: hs.trace(A),
        lambda: hs.spectrum(A),
        lambda: hs.diagonal(A, 8),
        lambda: hs.spectral_density(A, 10),
        lambda: hs.logdet(A, 1.0),
    )
    for ask in asks:
        with pytest.raises(ValueError, match=r"^Function\.matmat returned a ") as caught:
            ask()
        assert "must return a tensor like V" in str(caught.value) or str(caught.value).endswith(
            "torch.float64, cpu."
        )


# --- law


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    a=st.floats(-100, 100),
    b=st.floats(-100, 100),
    d=st.floats(-100, 100),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_nested_combinations_are_those_of_matrices(seed, a, b, d, dtype):
    generator = torch.Generator().manual_seed(seed)
    M, N = (torch.randn(9, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    M, N = (M + M.T).to(dtype), (N + N.T).to(dtype)
    A, B, eye, unit = hs.as_operator(M), hs.as_operator(N), hs.Identity(9), torch.eye(9).to(dtype)
    size = (1 + abs(a)) * (1 + abs(b)) * (1 + abs(d)) * float(M.norm() + N.norm() + 9)
    for operator, matrix in (
        (A + d * eye, M + d * unit),
        (a * (A + d * eye), a * (M + d * unit)),
        (-(A / 3 - d * eye), -(M / 3 - d * unit)),
        (a * (A - b * (B + d * eye)), a * (M - b * (N + d * unit))),
        (d * eye - A, d * unit - M),
        (a * (d * eye), a * d * unit),
        ((A + d * eye) - (A + d * eye), 0 * unit),
    ):
        found = operator.to_dense()
        assert (found - matrix).norm() <= 4 * rounding(dtype, 9, size)
        products = operator @ unit
        assert (products - found).norm() <= 4 * rounding(dtype, 9, size)
        values = hs.spectrum(operator, check=False)
        exact = torch.linalg.eigvalsh(matrix.double())
        assert (values.eigenvalues - exact).abs().max() <= 8 * rounding(dtype, 9, size)


def test_a_combination_is_written_out_and_costs_a_product_of_each():
    A, B = Known(VALUES), Known(VALUES)
    eye = hs.Identity(40)
    nested = 2 * ((A + 0.5 * eye) - 3 * (B / 3 - eye))
    assert isinstance(nested, Combination)
    assert [c for c, _ in nested.terms] == [2.0, -2.0]
    assert nested.shift == 7.0
    nested @ torch.ones(40, 5)
    assert (A.columns, B.columns) == (5, 5)
    minus = -A
    assert -minus is A
    assert ((A + eye) - eye) is A


def test_a_shift_takes_the_dtype_of_what_it_shifts():
    A = ladder(torch.float32)
    assert (A + hs.Identity(40)).dtype == torch.float32
    assert (hs.Identity(40) - A).dtype == torch.float32
    assert hs.Identity(40, dtype=torch.float32).dtype == torch.float32


def test_sizes_must_agree_also_of_shifts():
    with pytest.raises(
        ValueError, match=r"^cannot combine an operator of size 40 on cpu with one "
    ):
        ladder() + hs.Identity(39)


# --- names


def test_shape_and_representation():
    A = Known(VALUES)
    eye = hs.Identity(40)
    assert A.shape == (2 * A).shape == eye.shape == (40, 40)
    assert repr(A) == "<Known: 40 x 40, torch.float64, cpu>"
    assert repr(hs.as_operator(torch.eye(2))) == "<Matrix: 2 x 2, torch.float32, cpu>"
    for operator, name in (
        (2 * (A + 0.1 * eye), "2 Known + 0.2 I"),
        (-A, "-Known"),
        (A / 4 - 0.5 * eye, "0.25 Known - 0.5 I"),
        (2 * A - A, "2 Known - Known"),
        (eye - A, "-Known + I"),
        (3 * eye, "3 I"),
    ):
        assert repr(operator) == f"<{name}: 40 x 40, torch.float64, cpu>"
        assert operator.facts()["operator"] == name


def test_facts_of_a_sum_are_those_of_both():
    problem = classifier()
    H, G = hs.Hessian(problem), hs.GaussNewton(problem)
    facts = (H - G).facts()
    assert facts["operator"] == "Hessian - GaussNewton"
    assert facts["product"] == ("reverse-over-reverse", "Jacobian by double backward")
    assert facts["items"] == H.facts()["items"]
    assert (2 * H).facts() == {**H.facts(), "operator": "2 Hessian"}


# --- what is known of an operator is known of its combinations


def semidefinite(values: Tensor) -> hs.SymmetricOperator:
    A = Known(values)
    A.positive_semidefinite = True
    return A


def test_lower_bounds_add_up():
    G, H, eye = semidefinite(VALUES), Known(VALUES), hs.Identity(40)
    for operator, bound in (
        (G, 0.0),
        (2 * G, 0.0),
        (G / 3 + G, 0.0),
        (0 * H, 0.0),
        (G + 0.5 * eye, 0.5),
        (2 * (G + 0.5 * eye), 1.0),
        (G - 0.5 * eye, -0.5),
        (-(-2 * G), 0.0),
        (3 * eye, 3.0),
        (H, -math.inf),
        (H + G, -math.inf),
        (-G, -math.inf),
        (G - G, -math.inf),
        (G - 0 * H, 0.0),
    ):
        assert operator.lower_bound == bound
        assert operator.positive_semidefinite == (bound >= 0)


def test_logdet_of_a_multiple_or_a_shift_costs_what_that_of_the_operator_costs():
    values = torch.linspace(0, 3, 300).double() ** 4
    G, eye = semidefinite(values), hs.Identity(300)
    plain = hs.logdet(G, 0.1)
    shifted, doubled = hs.logdet(G + 0.1 * eye, 0.0), hs.logdet(2 * G, 0.2)
    assert plain.num_matvecs == shifted.num_matvecs == doubled.num_matvecs
    truth = float((values + 0.1).log().sum())
    assert truth in shifted.interval(0.9999)
    assert truth + 300 * math.log(2) in doubled.interval(0.9999)


@pytest.mark.parametrize("operator", [hs.Hessian, hs.GaussNewton])
def test_the_spectrum_of_a_multiple_costs_no_more_and_is_exactly_twice(operator):
    A = operator(classifier())
    plain, doubled, minus = hs.spectrum(A), hs.spectrum(2 * A), hs.spectrum(-A)
    assert torch.equal(doubled.eigenvalues, 2 * plain.eigenvalues)
    assert torch.equal(minus.eigenvalues, -plain.eigenvalues.flip(0))
    assert plain.num_matvecs == doubled.num_matvecs == minus.num_matvecs
    assert doubled.zeros == plain.zeros
    assert sum(plain.zeros.values()) > 0
    assert doubled.facts["matrix"] == plain.facts["matrix"]
    assert 2 * plain.error <= doubled.error <= 2 * plain.error * 1.2


@pytest.mark.parametrize("operator", [hs.Hessian, hs.GaussNewton])
def test_zeros_of_a_shifted_operator_are_eigenvalues_equal_to_the_shift(operator):
    A = operator(classifier())
    plain, shifted = hs.spectrum(A), hs.spectrum(2 * (A + 0.25 * hs.Identity(A.n)))
    assert torch.equal(shifted.eigenvalues, 2 * plain.eigenvalues + 0.5)
    assert (shifted.zeros, shifted.shift) == (plain.zeros, 0.5)
    num = sum(shifted.zeros.values())
    assert int((shifted.eigenvalues == 0.5).sum()) >= num > 0
    causes = ", ".join(f"{count} {cause}" for cause, count in plain.zeros.items())
    assert f"  exact zeros taken out: {causes}" in str(plain)
    assert f"  eigenvalues exactly 0.5 taken out: {causes}" in str(shifted)
    assert max(shifted.identities.values()) < 1e-12
    dense = torch.linalg.eigvalsh((2 * A + 0.5 * hs.Identity(A.n)).to_dense())
    assert (dense - shifted.eigenvalues).abs().max() <= 2 * shifted.error


def test_a_multiple_of_the_identity_needs_no_matrix():
    spectrum = hs.spectrum(3 * hs.Identity(5))
    assert spectrum.eigenvalues.tolist() == [3.0] * 5
    assert (spectrum.num_matvecs, spectrum.zeros) == (0, {"multiple of the identity": 5})
    assert torch.equal(hs.Identity(2).to_dense(), torch.eye(2).double())


class Weighted(Known):
    """Known in a space with an inner product and probes of its own, as of divided vectors."""

    def inner(self, V: Tensor, W: Tensor) -> Tensor:
        return 2 * super().inner(V, W)

    def probe(self, seed: int) -> Tensor:
        return super().probe(seed + 100)


def test_a_combination_lives_in_the_space_of_its_operators():
    A, B = Weighted(VALUES), Known(VALUES)
    V = torch.ones(40, 2).double()
    assert B.plain_inner
    assert (2 * B - B).plain_inner
    for operator in (2 * A, B - A, A + hs.Identity(40), hs.Identity(40) - 2 * (B + A)):
        assert not operator.plain_inner
        assert torch.equal(operator.inner(V, V), A.inner(V, V))
        assert torch.equal(operator.probe(3), A.probe(3))

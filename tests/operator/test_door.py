"""What may be given where an operator is expected, and what every algorithm refuses."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import aslinearoperator

import hesscope as hs
from hesscope.estimators.survey import survey

MATRIX = torch.diag(torch.arange(1.0, 31.0).double()) + 0.1

DOORS = {
    "trace": lambda A: hs.trace(A).value,
    "frobenius_norm": lambda A: hs.frobenius_norm(A).value,
    "diagonal": lambda A: hs.diagonal(A).values,
    "spectrum": lambda A: hs.spectrum(A).eigenvalues,
    "logdet": lambda A: hs.logdet(A, 1.0).value,
    "effective_dimension": lambda A: hs.effective_dimension(A, 1.0).value,
    "trace_function": lambda A: hs.trace_function(A, torch.tanh).value,
    "conditioning": lambda A: hs.conditioning(A).kappa.low,
    "spectral_density": lambda A: hs.spectral_density(A).nodes,
    "eigsh": lambda A: hs.eigsh(A, 3).eigenvalues,
    "survey": lambda A: survey(A, 40, 3)[1].eigenvalues,
}
FORMS = {
    "operator": hs.as_operator,
    "tensor": lambda M: M,
    "parameter": torch.nn.Parameter,
    "array": lambda M: M.numpy(),
    "Fortran array": lambda M: np.asfortranarray(M.numpy()),
    "reversed view": lambda M: M.flip(0, 1).numpy()[::-1, ::-1],
    "sparse tensor": lambda M: M.to_sparse(),
    "sparse rows": lambda M: M.to_sparse_csr(),
    "scipy sparse": lambda M: scipy.sparse.csr_array(M.numpy()),
    "LinearOperator": lambda M: aslinearoperator(M.numpy()),
    "our own to SciPy": lambda M: hs.as_operator(M).to_scipy(),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_a_matrix_in_any_form(door, form):
    """Sums in another order may differ by rounding, and that may move a threshold's Ritz value."""
    expected = torch.as_tensor(DOORS[door](hs.as_operator(MATRIX)), dtype=torch.float64)
    found = torch.as_tensor(DOORS[door](FORMS[form](MATRIX)), dtype=torch.float64)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("form", FORMS)
def test_operators_are_checked_and_made_dense_in_any_form(form):
    A = FORMS[form](MATRIX)
    assert hs.check_operator(A).ok
    dense = hs.as_operator(A).to_dense()
    assert torch.equal(dense, MATRIX)
    dense.zero_()
    assert torch.equal(hs.as_operator(A).to_dense(), MATRIX)


@pytest.mark.parametrize("door", [*DOORS, "check_operator"])
def test_every_door_refuses_what_is_no_operator_with_one_sentence(door):
    ask = {**DOORS, "check_operator": hs.check_operator}[door]
    model, rectangular = torch.nn.Linear(3, 3), aslinearoperator(np.ones((3, 4)))
    for thing, name in (
        (model, "Linear"),
        (lambda V: V, "function"),
        ([[1.0]], "list"),
        (3, "int"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011  matched in full
            ask(thing)
        assert str(caught.value) == (
            f"{name} is no operator; give one such as hs.Hessian(problem), a square tensor or "
            "array, a SciPy operator, or hs.as_operator(function, n)."
        )
    for thing, message in (
        (torch.ones(3, 4), "a matrix of shape (3, 4) is not square; an operator is n x n."),
        (np.ones(3), "a matrix of shape (3,) is not square; an operator is n x n."),
        (
            torch.eye(3).long(),
            "dtype=torch.int64: an operator needs a real floating dtype such as torch.float64; "
            "give A.double(), or A.astype(float) of an array.",
        ),
        (
            np.eye(3, dtype=bool),
            "dtype=torch.bool: an operator needs a real floating dtype such as torch.float64; "
            "give A.double(), or A.astype(float) of an array.",
        ),
        (np.array([["a"]]), "an array of <U1 holds no numbers; give one of float64."),
        (
            scipy.sparse.csr_array(np.eye(3, dtype=int)),
            "csr_array of shape (3, 3) and int64 is no operator: it has to be square, and of "
            "floats (A.astype(float)).",
        ),
        (
            rectangular,
            f"{type(rectangular).__name__} of shape (3, 4) and float64 is no operator: it has to "
            "be square, and of floats (A.astype(float)).",
        ),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011  matched in full
            ask(thing)
        assert str(caught.value) == message


@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_a_matrix_that_is_plainly_not_symmetric(door):
    skew = MATRIX.clone()
    skew[2, 5] += 1.0
    for thing in (skew, skew.numpy(), skew.float()):
        with pytest.raises(
            ValueError, match=r"^the matrix is not symmetric: A and its transpose "
        ) as e:
            DOORS[door](thing)
        assert str(e.value).endswith(
            "differ by 1, its largest entry is 30.1; give (A + A.T) / 2 if that is meant."
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-36, 1.0, 1e30])
def test_a_matrix_that_is_symmetric_but_for_rounding_is_let_through(dtype, scale):
    X = torch.randn(3000, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    X = X.to(dtype)
    M = scale * (X.flip(1) @ X.T.flip(0))
    other = scale * (X @ X.T)
    M.tril_(-1).add_(other.triu())  # two halves from sums in another order
    assert not torch.equal(M, M.T)
    assert hs.eigsh(M, 1, verify=False, max_matvecs=3).eigenvectors.shape == (3000, 1)


def test_functions_are_called_in_the_given_dtype():
    seen = []

    def double(V):
        seen.append(V.dtype)
        return 2 * V

    assert (hs.as_operator(double, 3, dtype=torch.float32) @ torch.ones(3).double()).dtype == seen[
        0
    ]
    assert seen == [torch.float32]
    assert hs.as_operator(double, 3, device="meta").device == torch.device("meta")

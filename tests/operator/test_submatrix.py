"""Principal submatrices: the rows and columns of the dense matrix, whatever the operator is."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests import oracles

DENSE = torch.arange(36.0).double().reshape(6, 6)
DENSE = DENSE + DENSE.T
WHERE = torch.tensor([[5, 0], [3, 1]])


@pytest.fixture(scope="module")
def problem():
    return hs.Problem(oracles.network(4, 5, 3), F.cross_entropy, oracles.data(20, 4, 3))


def stepped(problem):
    adam = torch.optim.Adam(problem.model.parameters(), lr=0.0)
    problem.model.zero_grad()
    F.cross_entropy(problem.model(oracles.data(20, 4, 3)[0]), oracles.data(20, 4, 3)[1]).backward()
    adam.step()
    return adam


OPERATORS = {
    "Hessian": hs.Hessian,
    "Gauss-Newton": hs.GaussNewton,
    "covariance": hs.GradientCovariance,
    "preconditioned": lambda p: hs.PreconditionedHessian(p, stepped(p)),
    "combination": lambda p: 2 * hs.Hessian(p) - hs.GaussNewton(p) + 3 * hs.Identity(p.n),
    "part of a part": lambda p: hs.Hessian(p).submatrix(slice(2, 30)),
    "matrix": lambda _: hs.as_operator(DENSE),
    "sparse matrix": lambda _: hs.as_operator(DENSE.to_sparse()),
    "function": lambda _: hs.as_operator(lambda V: DENSE @ V, 6),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_it_is_the_rows_and_columns_of_the_dense_matrix(name, problem):
    A = OPERATORS[name](problem)
    rows = WHERE.reshape(-1)
    expected = A.to_dense()[rows][:, rows]
    part = A.submatrix(WHERE)
    assert part.shape == (4, 4)
    torch.testing.assert_close(part.to_dense(), expected, rtol=1e-10, atol=1e-14)
    v = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(part @ v, expected @ v, rtol=1e-10, atol=1e-14)
    found = hs.spectrum(part).eigenvalues
    torch.testing.assert_close(found, torch.linalg.eigvalsh(expected), rtol=1e-9, atol=1e-12)
    top = hs.eigsh(part, 1, seed=0)
    assert float(top.eigenvalues[0]) == pytest.approx(float(found[-1]), rel=1e-6)
    assert hs.check_operator(part).ok


@pytest.mark.parametrize(
    "where",
    [
        [4, 1],
        (4, 1),
        np.array([[4], [1]]),
        torch.tensor([4, 1], dtype=torch.int32),
        range(4, 0, -3),
        slice(4, 0, -3),
    ],
    ids=lambda x: type(x).__name__,
)
def test_coordinates_may_be_given_in_any_way(where):
    found = hs.as_operator(DENSE).submatrix(where).to_dense()
    assert torch.equal(found, DENSE[[4, 1]][:, [4, 1]])


def test_a_mask_takes_what_it_marks():
    mask = torch.tensor([True, False, False, True, False, False])
    for given in (mask, mask.tolist(), mask.numpy()):
        found = hs.as_operator(DENSE).submatrix(given).to_dense()
        assert torch.equal(found, DENSE[[0, 3]][:, [0, 3]])


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ([0, 6], "has coordinates from 0 to 6; this operator has those from 0 to 5"),
        ([-1], "from -1 to -1"),
        ([1, 1], "names a coordinate twice"),
        ([], "names none of the 6 coordinates"),
        (slice(3, 3), "names none of the 6 coordinates"),
        (torch.zeros(6, dtype=torch.bool), "names none of the 6 coordinates"),
        ([True, False], "a mask of shape (2,) is none of 6 coordinates; give (6,)"),
        ([0.0, 1.0], "`where` is in torch.float64; give whole numbers"),
    ],
    ids=str,
)
def test_what_are_no_coordinates_is_refused(where, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        hs.as_operator(DENSE).submatrix(where)


def test_an_inner_product_of_its_own_has_no_coordinates():
    class Weighted(hs.SymmetricOperator):
        def matmat(self, V):
            return V

        def inner(self, V, W):
            return 2 * V.T @ W

    with pytest.raises(ValueError, match="an inner product of their own"):
        Weighted(3, dtype=torch.float64).submatrix([0])


def test_what_is_known_of_the_whole_is_known_of_a_part(problem):
    part = (hs.GaussNewton(problem) + 0.5 * hs.Identity(problem.n)).submatrix(slice(0, 7))
    assert part.positive_semidefinite
    assert part.lower_bound == 0.5
    assert part.identity_part == 0.5
    assert "7 coordinates of" in repr(part)
    assert part.facts()["n"] == 7


def test_kept_products_are_those_of_these_coordinates(problem, tmp_path):
    H = hs.Hessian(problem)
    first = hs.eigsh(hs.as_operator(H.submatrix(slice(0, 9)), scratch=tmp_path), 1, seed=0)
    again = hs.eigsh(hs.as_operator(H.submatrix(slice(0, 9)), scratch=tmp_path), 1, seed=0)
    assert torch.equal(first.eigenvalues, again.eigenvalues)
    with pytest.raises(ValueError, match="coordinates"):
        hs.as_operator(H.submatrix(slice(1, 10)), scratch=tmp_path)


class Attention(nn.Module):
    """One head whose queries, keys and values are rows of one weight."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(3, 9, bias=False).double()

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return (q @ k.mT).softmax(-1) @ v


class Apart(nn.Module):
    """The same function of three weights."""

    def __init__(self, weight):
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(part.clone()) for part in weight.chunk(3))

    def forward(self, x):
        return (x @ self.q.T @ (x @ self.k.T).mT).softmax(-1) @ x @ self.v.T


def test_rows_of_a_fused_weight_are_a_block():
    torch.manual_seed(0)
    x, y = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    fused = Attention()
    apart = hs.Problem(Apart(fused.qkv.weight.detach()), nn.MSELoss(), (x, y))
    problem = hs.Problem(fused, nn.MSELoss(), (x, y))
    rows = problem.layout.coordinates("qkv.weight")
    assert rows.shape == (9, 3)
    for i, name in enumerate("qkv"):
        part = hs.Hessian(problem).submatrix(rows[3 * i : 3 * i + 3]).to_dense()
        expected = hs.Hessian(apart.block(name)).to_dense()
        torch.testing.assert_close(part, expected, rtol=1e-9, atol=1e-13)
        assert expected.norm() > 1e-3


def test_coordinates_of_a_parameter_that_is_not_there_are_refused(problem):
    with pytest.raises(ValueError, match=re.escape("'head'; there are 0.weight, 0.bias")):
        problem.layout.coordinates("head")

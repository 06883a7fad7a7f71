"""The projection onto any space: inside the spectrum, right beside dense ones, frugal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hesscope as hs
from hesscope.krylov.subspace import Subspace, settled


def _symmetric(n: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    A = torch.randn(n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    return (A + A.T).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ritz_pairs_are_those_of_the_projected_matrix(dtype: torch.dtype) -> None:
    A = _symmetric(12, dtype)
    V = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    space = Subspace(hs.as_operator(A))
    taken = [space.add(V[:, i], A @ V[:, i] if i % 2 else None) for i in range(4)]
    assert taken == [True] * 4
    assert space.num_matvecs == 2
    Q = torch.linalg.qr(V.double()).Q
    expected = torch.linalg.eigvalsh(Q.T @ A.double() @ Q)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    assert space.ritz()[0].tolist() == pytest.approx(expected.tolist(), abs=tolerance)
    v, residual = space.top()
    true = A.double() @ v.double() - float(space.ritz()[0][-1]) * v.double()
    assert float((residual.double() - true).norm()) < 10 * tolerance
    assert space.ritz()[0][-1] <= float(torch.linalg.eigvalsh(A.double())[-1]) + space.noise


def test_what_lies_in_the_space_already_brings_nothing() -> None:
    A = _symmetric(6)
    e = torch.eye(6).double()
    space = Subspace(hs.as_operator(A))
    assert space.add(e[0])
    assert not space.add(2 * e[0])
    assert not space.add(torch.zeros(6).double())
    assert not space.add(e[0] + 0.05 * e[1], A @ (e[0] + 0.05 * e[1]))  # rounding, mostly
    assert space.add(e[0] + 0.2 * e[1], A @ (e[0] + 0.2 * e[1]))
    assert space.num_matvecs == 1


def test_where_a_value_rests() -> None:
    assert settled(np.array([1.0, 3.0]), 0.1, 2.0) == pytest.approx(0.01)
    assert settled(np.array([1.0, 3.0]), 0.1, 0.0) == pytest.approx(0.005)
    assert settled(np.array([3.0]), 0.1, 4.0) == float("inf")
    assert settled(np.array([3.0]), 0.0, 4.0) == 0.0

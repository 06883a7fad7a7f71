"""Eigenvalues of a large symmetric matrix in two stages: dense to a band, the band to a line.

LAPACK's tridiagonalisation reads the whole matrix once for every column, so that memory sets its
speed. A band of b columns needs one reading for every b columns, and all of it is matrix products
(Bischof, Lang and Sun 2000, "A framework for symmetric band reduction"). Between two panels the
matrix is a smaller problem of the same kind, which is what makes a long run resumable.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from hesscope.system import progress

WIDTH = 64  # columns of a panel, and the half-bandwidth that is left
WIDTH_ON_DEVICE = 16  # where products are so fast that the band, on the CPU, takes nearly all
BLOCK = 1_024  # rows that are multiplied and updated at a time


def width_on(device: torch.device) -> int:
    """The half-bandwidth at which both stages together take least on this kind of device."""
    return WIDTH if device.type == "cpu" else WIDTH_ON_DEVICE


def reduce_to_band(
    A: Tensor, width: int = WIDTH, *, start: int = 0, pause: Callable[[int], None] | None = None
) -> None:
    """Q'AQ with at most `width` entries below the diagonal, over the lower triangle of A, (n, n).

    For each panel P of `width` columns, P = QR by Householder reflections, Q = I - V T V', and the
    rest of the matrix becomes Q'BQ = B - V X' - X V' with W = B V T and X = W - V T'V'W / 2
    (Dongarra, Sorensen and Hammarling 1989, eq. 6 for one column). 4/3 n³ flops in products.

    Only the lower triangle, with whole diagonal blocks, is read and written; what is left outside
    the band is without meaning. `start` is the first column that is not reduced yet; `pause` is
    told it after every panel, at a moment when the matrix could be kept and taken up again.

    >>> A = torch.tensor([[1.0, 3.0, 4.0], [3.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    >>> reduce_to_band(A, 1)
    >>> A[1:, 0].abs()
    tensor([5., 0.])
    """
    n = len(A)
    for j in range(start, n - width - 1, width):
        below = j + width
        V, T_inverse, R = _reflections(A[below:, j:below])
        A[below:, j:below] = 0
        A[below : below + len(R), j:below] = R
        edges = _edges(below, n)
        W = _product(A, V, edges)
        W = torch.linalg.solve_triangular(T_inverse, W, upper=True, left=False)
        S = torch.linalg.solve_triangular(T_inverse.T, V.T @ W, upper=False)
        _update(A, V, W - V @ S / 2, edges)
        progress.report("exact spectrum: columns to a band", below, n)
        if pause is not None:
            pause(below)


def eigenvalues(A: Tensor, width: int = WIDTH) -> Tensor:
    """All eigenvalues, ascending, of the band in the lower triangle of A: 6 n² width flops.

    On the CPU, wherever A is: the band is small.
    """
    from scipy.linalg import eigvals_banded  # when it is needed: importing hesscope stays fast

    n = len(A)
    band = np.zeros((min(width, n - 1) + 1, n))
    for below, row in enumerate(band):
        row[: n - below] = A.diagonal(-below).cpu().numpy()
    progress.report("exact spectrum: eigenvalues of the band", 0)
    values = eigvals_banded(band, lower=True, overwrite_a_band=True, check_finite=False)
    return torch.from_numpy(values)


def _reflections(P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """P = (I - V T V') [R; 0]: V unit lower trapezoidal, the inverse of T, and R.

    T^-1 = triu(V'V, 1) + diag(1/τ) (Puglisi 1992). A reflection with τ = 0 is none: its column of
    V is taken out, and any number may stand for 1/τ.
    """
    packed, tau = torch.geqrf(P)
    k = len(tau)
    R = packed[:k].triu()
    V = packed[:, :k].T.triu(1).T  # columns contiguous: products are up to 3 times as fast
    V.diagonal().fill_(1)
    V *= tau != 0
    inverse = (V.T @ V).triu(1)
    inverse.diagonal().copy_(torch.where(tau == 0, 1.0, 1 / tau))
    return V, inverse, R


def _edges(low: int, high: int) -> list[tuple[int, int]]:
    """Blocks of rows whose borders do not depend on `low`, so that diagonal blocks stay whole."""
    cuts = [low, *range((low // BLOCK + 1) * BLOCK, high, BLOCK), high]
    return list(pairwise(cuts))


def _product(A: Tensor, V: Tensor, edges: list[tuple[int, int]]) -> Tensor:
    """B V for the trailing matrix B, of which only blocks on and below the diagonal are there."""
    low = edges[0][0]
    Y = torch.zeros_like(V.T).T
    for i, end in edges:
        rows, before = slice(i - low, end - low), slice(0, i - low)
        Y[rows].addmm_(A[i:end, low:end], V[: end - low])
        Y[before].addmm_(A[i:end, low:i].T, V[rows])
    return Y


def _update(A: Tensor, V: Tensor, X: Tensor, edges: list[tuple[int, int]]) -> None:
    """B - V X' - X V' in the same blocks."""
    low = edges[0][0]
    left, right = torch.cat([V.T, X.T]), torch.cat([X.T, V.T])
    for i, end in edges:
        A[i:end, low:end].addmm_(left[:, i - low : end - low].T, right[:, : end - low], alpha=-1)

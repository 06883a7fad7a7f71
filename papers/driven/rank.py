"""The exact spectrum of a wide ReLU perceptron on few examples, by the rank of its Hessian.

Let w be the weights and biases of the first layer and v all others. ReLU is linear on both sides
of its kink, so that no output has a second derivative within w, and the Hessian is

    H = [[F'F, B], [B', D]],

where F has a row for each example and each direction in which its softmax curves, N (C - 1) of
them. So with m entries in v the rank of H is at most N (C - 1) + 2 m, however many inputs and
units there are. With B = Q R, P = F Q and a Cholesky factor L of F F' - P P',

    [[P'P, P'L, R], [L'P, L'L, 0], [R', 0, D]]

has the eigenvalues of H but for zeros: [P L] is F in an orthonormal basis that begins with Q.
"""

from __future__ import annotations

from dataclasses import dataclass

import scipy.linalg
import torch
from torch import Tensor, nn

import hesscope as hs

COLUMNS = 64  # products at a time


@dataclass
class Blocks:
    """What H is made of, without the rows of inputs that are zero in all examples."""

    X: Tensor  # inputs and a one for the bias, (N, d)
    S: Tensor  # the rows of F are S[n, a] ⊗ X[n], (N, C - 1, units)
    B: Tensor  # (m, units d): transposed, as LAPACK overwrites it
    D: Tensor  # (m, m)

    @property
    def moments(self) -> tuple[float, float]:
        """tr H and tr H², from what H is made of."""
        G = self.gram()
        trace = float(G.trace() + self.D.trace())
        return trace, float(G.square().sum() + 2 * self.B.square().sum() + self.D.square().sum())

    def gram(self) -> Tensor:
        """F F', (N (C - 1), N (C - 1))."""
        N, a, units = self.S.shape
        rows = self.S.reshape(N * a, units)
        G = rows @ rows.T
        G.view(N, a, N, a).mul_((self.X @ self.X.T)[:, None, :, None])
        return G


def blocks(problem: hs.Problem, X: Tensor) -> Blocks:
    """F in closed form; B and D by products with the unit vectors of v."""
    first = problem.model[0]
    units, inputs = first.weight.shape
    live = (X != 0).any(0).nonzero().flatten()
    rows = torch.arange(units)[:, None] * inputs + live
    rows = torch.cat([rows, units * inputs + torch.arange(units)[:, None]], 1).flatten()
    later = torch.arange(units * (inputs + 1), problem.n)
    H = hs.Hessian(problem)
    B = torch.empty(len(later), len(rows), dtype=X.dtype)
    D = torch.empty(len(later), len(later), dtype=X.dtype)
    for part in torch.arange(len(later)).split(COLUMNS):
        V = torch.zeros(problem.n, len(part), dtype=X.dtype)
        V[later[part], torch.arange(len(part))] = 1
        V = H.matmat(V)
        B[part], D[part] = V[rows].T, V[later].T
    with_bias = torch.cat([X[:, live], torch.ones(len(X), 1, dtype=X.dtype)], 1)
    return Blocks(with_bias, factors(problem.model, X), B, (D + D.T) / 2)


def factors(model: nn.Sequential, X: Tensor) -> Tensor:
    """S (N, C - 1, units): of mean cross-entropy, in what the first layer computes.

    diag p - p p' = V V' with V = diag √p U, the columns of U orthonormal and orthogonal to √p.
    """
    with torch.no_grad():
        z = [model[0](X)]
        for module in model[1:]:
            z.append(module(z[-1]))
        root = z[-1].softmax(1).sqrt()
        S = root[:, :, None] * _complement(root) / len(X) ** 0.5  # (N, C, C - 1)
        S = S.mT
        for module, x in zip(reversed(model[1:]), reversed(z[:-1]), strict=True):
            S = S @ module.weight if isinstance(module, nn.Linear) else S * (x > 0)[:, None]
    return S


def _complement(u: Tensor) -> Tensor:
    """Orthonormal columns (N, C, C - 1) orthogonal to unit vectors u (N, C), by a reflection."""
    sign = torch.where(u[:, :1] < 0, -1.0, 1.0).to(u)
    w = torch.cat([u[:, :1] + sign, u[:, 1:]], 1)
    eye = torch.eye(u.shape[1], dtype=u.dtype)
    reflection = eye - 2 * w[:, :, None] * w[:, None, :] / w.square().sum(1)[:, None, None]
    return reflection[:, :, 1:]


def small(parts: Blocks) -> Tensor:
    """The small matrix. B is overwritten."""
    G = parts.gram()
    Q, R = scipy.linalg.qr(parts.B.numpy().T, mode="economic", overwrite_a=True, check_finite=False)
    P, R = _in_basis(parts, torch.from_numpy(Q)), torch.from_numpy(R)
    del Q
    G -= P @ P.T
    L, order = _cholesky(G)
    del G
    P = P[order]
    r, q, m = P.shape[1], L.shape[1], len(parts.D)
    M = torch.zeros(r + q + m, r + q + m, dtype=P.dtype)
    M[:r, :r] = P.T @ P
    M[r : r + q, :r] = L.T @ P
    M[:r, r : r + q] = M[r : r + q, :r].T
    M[r : r + q, r : r + q] = L.T @ L
    M[:r, r + q :], M[r + q :, :r] = R, R.T
    M[r + q :, r + q :] = parts.D
    return M


def _in_basis(parts: Blocks, Q: Tensor) -> Tensor:
    """F Q, unit by unit."""
    N, a, r = *parts.S.shape[:2], Q.shape[1]
    P = torch.zeros(N, a, r, dtype=Q.dtype)
    for i, rows in enumerate(Q.split(parts.X.shape[1])):
        P.addcmul_(parts.S[:, :, i, None], (parts.X @ rows)[:, None, :])
    return P.view(N * a, r)


def _cholesky(G: Tensor) -> tuple[Tensor, Tensor]:
    """L (rows, rank) with G[order][:, order] = L L', pivots down to rounding."""
    L, order, rank, _ = scipy.linalg.lapack.dpstrf(G.numpy().T, lower=1, overwrite_a=1)
    return torch.from_numpy(L).tril_()[:, :rank], torch.from_numpy(order).long() - 1

"""Approximate eigenpairs with their residual vectors, and the best of them in their span."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hesscope.krylov.wanted import Wanted
from hesscope.operator import SymmetricOperator, norm
from hesscope.operator.parts import columns


@dataclass(frozen=True)
class Pairs:
    """Orthonormal X (n, k), values θ (k,), and R = A X - X Θ (n, k) as far as it has vectors."""

    vectors: Tensor
    values: np.ndarray
    residual_vectors: Tensor
    lost: np.ndarray  # (k,) norms of the part of each column of R that has none

    @property
    def images(self) -> Tensor:
        """A X, (n, k)."""
        return self.along(torch.eye(len(self.values), dtype=torch.float64))

    def along(self, C: Tensor) -> Tensor:
        """A X C for coefficients C (k, l), without a product."""
        scaled = torch.from_numpy(self.values)[:, None] * C
        return self.vectors @ scaled.to(self.vectors) + self.residual_vectors @ C.to(self.vectors)

    def sizes(self, A: SymmetricOperator) -> np.ndarray:
        """‖A x - θ x‖ of each pair."""
        return np.array([norm(A, r) for r in self.residual_vectors.unbind(1)]) + self.lost


def from_products(A: SymmetricOperator, X: Tensor, AX: Tensor) -> Pairs:
    """Of vectors and their products: Rayleigh quotients and what is left."""
    values = A.inner(X, AX).diagonal()
    R = AX - X * values.to(X.dtype)
    return Pairs(X, values.cpu().numpy(), R, np.zeros(len(values)))


def rayleigh_ritz(A: SymmetricOperator, pairs: Pairs, wanted: Wanted) -> Pairs:
    """The wanted Ritz pairs in the span of X, those of XᵀAX = Θ + XᵀR, symmetrised, in order.

    Small numbers are added to small ones, so that no digit of R is lost to the size of A.
    """
    X, R = pairs.vectors, pairs.residual_vectors
    coupling = A.inner(X, R)
    coupling = (coupling + coupling.T) / 2
    values, U = torch.linalg.eigh(torch.from_numpy(pairs.values).to(coupling).diag() + coupling)
    order = torch.from_numpy(wanted.choose(values.cpu().numpy()).copy()).to(U.device)
    values, U = values[order], U[:, order]
    turned = columns(R, U.to(R.dtype), A._parts)
    R = turned - columns(X, (coupling @ U).to(X.dtype), A._parts)
    lost = np.abs(U.cpu().numpy()).T @ pairs.lost
    return Pairs(columns(X, U.to(X.dtype), A._parts), values.cpu().numpy(), R, lost)

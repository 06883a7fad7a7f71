"""Approximate eigenpairs with their residual vectors, and the best of them in their span."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hesscope.krylov.rows import Rows
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
    ritz = _ritz(A.inner(X, R), pairs.values, wanted)
    U, C, parts = ritz.U.to(X.dtype), ritz.coupled.to(X.dtype), A._parts
    residuals = columns(R, U, parts) - columns(X, C, parts)
    return Pairs(columns(X, U, parts), ritz.values, residuals, ritz.parts @ pairs.lost)


def rayleigh_ritz_of_rows(
    X: Rows, R: Rows, values: np.ndarray, lost: np.ndarray, wanted: Wanted
) -> Pairs:
    """The same of vectors that may be too many to be columns beside each other."""
    ritz = _ritz(X.products(R), values, wanted)
    vectors, residuals = X.combine(ritz.U), R.combine(ritz.U)
    residuals -= X.combine(ritz.coupled)
    return Pairs(vectors, ritz.values, residuals, ritz.parts @ lost)


@dataclass(frozen=True)
class _Ritz:
    """Values (k,) and vectors U of Θ + C, the wanted ones in order; and C U."""

    values: np.ndarray
    U: Tensor
    coupled: Tensor

    @property
    def parts(self) -> np.ndarray:
        """|U|ᵀ, (k, all)."""
        return np.abs(self.U.cpu().numpy()).T


def _ritz(coupling: Tensor, values: np.ndarray, wanted: Wanted) -> _Ritz:
    coupling = (coupling + coupling.T) / 2
    found, U = torch.linalg.eigh(torch.from_numpy(values).to(coupling).diag() + coupling)
    order = torch.from_numpy(wanted.choose(found.cpu().numpy()).copy()).to(U.device)
    U = U[:, order]
    return _Ritz(found[order].cpu().numpy(), U, coupling @ U)

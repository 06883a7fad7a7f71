"""Preconditioners of linear systems: positive definite matrices P ≈ A that are cheap to invert."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from hesscope.operator import Derived, SymmetricOperator, norm
from hesscope.results.estimate import Diagonal
from hesscope.results.spectrum import Eigenpairs

SMALLEST = 1e-3  # of the largest entry of a diagonal that is believed


class Multiplies(Protocol):
    """Anything with `P_inverse @ v`, such as an inverse Kronecker-factored operator."""

    def __matmul__(self, v: Any, /) -> Any:
        """The product with a vector (n,)."""


PreconditionerLike = Diagonal | Eigenpairs | Tensor | Multiplies
InverseProduct = Callable[[Tensor], Tensor]  # (n, k) -> P⁻¹ V


def inverse_of(given: PreconditionerLike, A: SymmetricOperator, damping: float) -> InverseProduct:
    """V -> P⁻¹ V for what a user may give.

    Raises:
        ValueError: if it does not have n entries, or P is not positive.
    """
    if isinstance(given, Eigenpairs):
        return _of_pairs(given, A, damping)
    if isinstance(given, Diagonal):
        values = given.values.abs()
        floor = max(given.error / math.sqrt(A.n), SMALLEST * float(values.max()))
        given = values.clamp(min=floor) + max(damping, 0.0)
    if isinstance(given, Tensor) and given.ndim == 1:
        return _of_diagonal(given, A)
    return _of_product(given, A)


def _of_diagonal(values: Tensor, A: SymmetricOperator) -> InverseProduct:
    if len(values) != A.n or not bool((values > 0).all()) or not bool(values.isfinite().all()):
        msg = (
            f"a preconditioner of {len(values)} entries, the smallest "
            f"{float(values.min()):.3g}: a diagonal needs {A.n} positive numbers."
        )
        raise ValueError(msg)
    inverse = (1 / values.double()).to(A.device, A.dtype)[:, None]
    return lambda V: inverse * V


def _of_pairs(pairs: Eigenpairs, A: SymmetricOperator, damping: float) -> InverseProduct:
    """P = U (|Λ| + δ) Uᵀ + (|λ|min + δ)(I - U Uᵀ), up to a factor (Frangella et al. 2023, eq. 1.3).

    Raises:
        ValueError: if the eigenvectors are those of another space, or P would be singular.
    """
    U = pairs.eigenvectors
    if U.shape[0] != A.n:
        msg = f"eigenvectors of length {U.shape[0]} cannot precondition an operator of n={A.n}."
        raise ValueError(msg)
    sizes = pairs.eigenvalues.abs() + max(damping, 0.0)
    rest = float(sizes.min())
    if rest <= 0:
        msg = "an eigenvalue of zero cannot precondition without damping; give damping=, or less k."
        raise ValueError(msg)
    U = U.to(A.device, A.dtype)
    weights = (rest / sizes - 1).to(A.device)[:, None]
    return lambda V: V + U @ (weights * A.inner(U, V)).to(V.dtype)


def _of_product(given: Any, A: SymmetricOperator) -> InverseProduct:
    """P⁻¹ as it is given, one vector after the other.

    Raises:
        ValueError: if a product is no vector of this space.
    """

    def apply(V: Tensor) -> Tensor:
        columns = [_column(given @ v, A) for v in V.unbind(1)]
        return torch.stack(columns, 1)

    return apply


def _column(w: Any, A: SymmetricOperator) -> Tensor:
    if not isinstance(w, Tensor) or w.numel() != A.n:
        shape = tuple(w.shape) if isinstance(w, Tensor) else type(w).__name__
        msg = f"the preconditioner gives {shape} for a vector of shape ({A.n},)."
        raise ValueError(msg)
    return w.detach().reshape(A.n).to(A.device, A.dtype)


class Preconditioned(Derived):
    """(A + damping I) P⁻¹, symmetric in the inner product uᵀP⁻¹w.

    Solving with it minimises the residual in the norm of P⁻¹, and needs P⁻¹ alone, not its root.
    """

    def __init__(self, A: SymmetricOperator, damping: float, inverse: InverseProduct) -> None:
        super().__init__(A)
        self.damping, self.inverse = damping, inverse
        self.scale = 0.0  # of A, from below: the largest ‖A w‖/‖w‖ of a product

    @property
    def plain_inner(self) -> bool:
        """Never: the inner product is that of P⁻¹."""
        return False

    def matmat(self, V: Tensor) -> Tensor:
        """(A + damping I) P⁻¹ V."""
        W = self.inverse(V)
        image = self.A @ W
        for w, y in zip(W.unbind(1), image.unbind(1), strict=True):
            length = norm(self.A, w)
            self.scale = max(self.scale, norm(self.A, y) / length if length > 0 else 0.0)
        return image + self.damping * W

    def inner(self, V: Tensor, W: Tensor) -> Tensor:
        """VᵀP⁻¹W."""
        return self.A.inner(V, self.inverse(W.to(self.dtype)))

"""The door for matrices and functions: whatever multiplies vectors, as an operator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hesscope.operator.symmetric import SymmetricOperator


class Matrix(SymmetricOperator):
    """A dense symmetric matrix as an operator."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
        self.matrix = matrix

    def matmat(self, V: Tensor) -> Tensor:
        """The matrix product."""
        return self.matrix @ V

    def to_dense(self, *, chunk: int = 64) -> Tensor:  # noqa: ARG002  nothing to assemble
        """A copy of the matrix."""
        return self.matrix.clone()


class Function(SymmetricOperator):
    """A function (n, k) -> (n, k) as an operator."""

    def __init__(self, matmat: Callable[[Tensor], Tensor], n: int, dtype: torch.dtype) -> None:
        super().__init__(n, dtype=dtype)
        self._matmat = matmat

    def matmat(self, V: Tensor) -> Tensor:
        """What the function returns."""
        return self._matmat(V)


def as_operator(
    A: SymmetricOperator | Tensor | Callable[[Tensor], Tensor],
    n: int | None = None,
    *,
    dtype: torch.dtype = torch.float64,
) -> SymmetricOperator:
    """A matrix, or a function that multiplies a block (n, k), as a `SymmetricOperator`.

    Args:
        A: an operator (returned as it is), a square tensor, or a function (n, k) -> (n, k).
        n: the size, needed for a function only.
        dtype: the dtype in which a function is called.

    Raises:
        ValueError: if A is a tensor that is not square or not floating, or a function without n.

    >>> as_operator(torch.diag(torch.tensor([1.0, 2.0]))) @ torch.ones(2)
    tensor([1., 2.])
    """
    if isinstance(A, SymmetricOperator):
        return A
    if isinstance(A, Tensor):
        if A.ndim != 2 or A.shape[0] != A.shape[1]:
            msg = f"a matrix of shape {tuple(A.shape)} is not square; an operator is n x n."
            raise ValueError(msg)
        return Matrix(A)
    if not callable(A) or n is None:
        msg = (
            f"as_operator got {type(A).__name__} and n={n}; give an operator, a square tensor, "
            "or a function (n, k) -> (n, k) together with n."
        )
        raise ValueError(msg)
    return Function(A, n, dtype)

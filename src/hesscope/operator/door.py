"""The door: whatever multiplies vectors, as an operator."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hesscope import rounding
from hesscope.operator.symmetric import SymmetricOperator
from hesscope.system.contents import as_bytes
from hesscope.system.contexts import as_users, public

ROWS = 2_048  # of a matrix that are compared with its columns at a time


class ScipyLike(Protocol):
    """A sparse matrix or a LinearOperator of SciPy."""

    shape: Any
    dtype: Any

    def __matmul__(self, V: Any, /) -> Any:
        """The product with an array (n, k)."""


OperatorLike = SymmetricOperator | Tensor | NDArray[Any] | ScipyLike


class Matrix(SymmetricOperator):
    """A symmetric matrix, dense or sparse, as an operator."""

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            msg = f"a matrix of shape {tuple(matrix.shape)} is not square; an operator is n x n."
            raise ValueError(msg)
        if not matrix.dtype.is_floating_point and not matrix.dtype.is_complex:
            msg = (
                f"dtype={matrix.dtype}: an operator needs a real floating dtype such as "
                "torch.float64; give A.double(), or A.astype(float) of an array."
            )
            raise ValueError(msg)
        super().__init__(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
        self.matrix = matrix.detach()

    def matmat(self, V: Tensor) -> Tensor:
        """The matrix product."""
        return self.matrix @ V

    def made_of(self) -> dict[str, str]:
        """Its entries, where they are dense."""
        if self.matrix.layout is not torch.strided:
            return super().made_of()
        entries = as_bytes(self.matrix).numpy().data
        return super().made_of() | {"entries": hashlib.sha256(entries).hexdigest()}

    def to_dense(self, *, chunk: int = 64) -> Tensor:  # noqa: ARG002  nothing to assemble
        """A dense copy of the matrix."""
        if self.matrix.layout is torch.strided:
            return self.matrix.clone()
        return self.matrix.to_dense()

    def _part(self, where: Tensor) -> SymmetricOperator:
        """Its entries there, where the matrix is dense."""
        if self.matrix.layout is not torch.strided:
            return super()._part(where)
        return Matrix(self.matrix[where[:, None], where])


class Function(SymmetricOperator):
    """A function (n, k) -> (n, k) as an operator."""

    def __init__(
        self,
        matmat: Callable[[Tensor], Tensor],
        n: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(n, dtype=dtype, device=device)
        self._matmat = matmat

    def matmat(self, V: Tensor) -> Tensor:
        """What the function returns."""
        return as_users(self._matmat, V)


@public
def as_operator(
    A: OperatorLike | Callable[[Tensor], Tensor],
    n: int | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    scratch: str | Path | None = None,
) -> SymmetricOperator:
    """A matrix, or anything that multiplies a block (n, k), as a `SymmetricOperator`.

    Whether it is symmetric is not looked at here: `check_operator` does, by products.

    Args:
        A: an operator (returned as it is), a square tensor or NumPy array, a SciPy sparse matrix or
            `LinearOperator`, or a function (n, k) -> (n, k) of tensors.
        n: the size, needed for a function only.
        dtype: the dtype in which a function is called.
        device: where a function is called.
        scratch: a folder that keeps every product, a vector on the disk for each, and every seed
            that is drawn. Whatever is measured of the operator goes on from there when it has been
            killed, to the same numbers bit for bit on the same machine: the product under way is
            lost, and one is made again, to see that the problem is the same. Remove it afterwards.

    Raises:
        ValueError: if A is a matrix that is not square or not floating, or none of these; if
            `scratch` keeps products of something else: the message names what differs.
        RuntimeError: if `scratch` cannot be written, or is damaged.

    >>> as_operator(torch.diag(torch.tensor([1.0, 2.0]))) @ torch.ones(2)
    tensor([1., 2.])
    >>> as_operator(lambda V: 3 * V, n=2, dtype=torch.float32) @ torch.ones(2)
    tensor([3., 3.])

    >>> import tempfile, hesscope as hs
    >>> with tempfile.TemporaryDirectory() as folder:  # a run that was killed goes on from there
    ...     A = hs.as_operator(torch.diag(torch.arange(50.0)), scratch=folder)
    ...     hs.eigsh(A, k=2).eigenvalues.round()
    tensor([49., 48.], dtype=torch.float64)
    """
    if scratch is not None:
        from hesscope.operator.kept import KeptProducts

        return KeptProducts(as_operator(A, n, dtype=dtype, device=device), scratch)
    if isinstance(A, SymmetricOperator):
        if "n" not in vars(A):
            msg = f"{type(A).__name__} has no size; call super().__init__(n, dtype=...) in its own."
            raise ValueError(msg)
        return A
    if isinstance(A, Tensor):
        return Matrix(A)
    if isinstance(A, np.ndarray):
        return Matrix(_as_tensor(A))
    if _is_scipy(A):
        return _from_scipy(A)
    if not callable(A) or n is None:
        msg = (
            f"{type(A).__name__} is no operator; give one such as hs.Hessian(problem), a square "
            "tensor or array, a SciPy operator, or hs.as_operator(function, n)."
        )
        raise ValueError(msg)
    return Function(A, n, dtype, device)


def symmetric_operator(A: OperatorLike) -> SymmetricOperator:
    """`as_operator` for the first argument of an algorithm, with a look at a matrix in memory.

    Raises:
        ValueError: as `as_operator`, and if A is a matrix that is plainly not symmetric.

    >>> symmetric_operator(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    Traceback (most recent call last):
    ValueError: the matrix is not symmetric: ... by 1, ... 1; give (A + A.T) / 2 if that is meant.
    """
    operator = as_operator(A)
    if operator is not A and isinstance(operator, Matrix):
        _refuse_asymmetric(operator.matrix)
    return operator


def _refuse_asymmetric(M: Tensor) -> None:
    """Compares a dense matrix with its transpose: two readings of it, as much as two products.

    Entries that are sums of k terms, taken in another order, differ by some √k·eps of the largest:
    half of the digits agree where symmetry was meant, for any k that fits in memory.

    Raises:
        ValueError: if entries differ by more than √eps of the largest.
    """
    if M.layout is not torch.strided:
        return
    largest = difference = 0.0
    for start in range(0, len(M), ROWS):
        rows = M[start : start + ROWS]
        largest = max(largest, float(rows.abs().max()))
        difference = max(difference, float((rows - M[:, start : start + ROWS].T).abs().max()))
    if difference > rounding.half_the_digits(M.dtype) * largest:
        msg = (
            f"the matrix is not symmetric: A and its transpose differ by {difference:.3g}, its "
            f"largest entry is {largest:.3g}; give (A + A.T) / 2 if that is meant."
        )
        raise ValueError(msg)


def _as_tensor(array: NDArray[Any]) -> Tensor:
    """A view of an array.

    Raises:
        ValueError: if it does not hold numbers.
    """
    if array.dtype.kind not in "fiubc":
        msg = f"an array of {array.dtype} holds no numbers; give one of float64."
        raise ValueError(msg)
    return torch.from_numpy(np.ascontiguousarray(array))


def _is_scipy(A: Any) -> bool:
    """Whether A is a sparse matrix or a LinearOperator, without importing SciPy for it."""
    sparse, linalg = (sys.modules.get(name) for name in ("scipy.sparse", "scipy.sparse.linalg"))
    return (sparse is not None and bool(sparse.issparse(A))) or (
        linalg is not None and isinstance(A, linalg.LinearOperator)
    )


def _from_scipy(A: Any) -> SymmetricOperator:
    """Products by SciPy, on the CPU.

    Raises:
        ValueError: if A is not square or not floating.
    """
    dtype = _as_tensor(np.zeros(0, A.dtype)).dtype
    square = len(A.shape) == 2 and A.shape[0] == A.shape[1]
    if not square or not dtype.is_floating_point:
        msg = (
            f"{type(A).__name__} of shape {A.shape} and {A.dtype} is no operator: it has to be "
            "square, and of floats (A.astype(float))."
        )
        raise ValueError(msg)

    def matmat(V: Tensor) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(A @ V.numpy()))

    return Function(matmat, A.shape[0], dtype)

"""A symmetric linear operator: a size, a product with a block of vectors, an inner product.

Every algorithm in hesscope uses these three things and nothing else, so it runs unchanged on a
5 x 5 matrix, on the Hessian of a network, and on an operator of your own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hesscope import probes
from hesscope.operator.inner import accumulated_inner
from hesscope.system import progress

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


@dataclass(frozen=True)
class SpectralForm:
    """A matrix that has the spectrum of an operator, up to exact zeros, made on demand."""

    size: int  # rows of the matrix
    assemble: Callable[[], Tensor]
    how: str  # how it is made, for the reader of a result
    num_matvecs: int = 0  # products that it costs
    zeros: Mapping[str, int] = field(default_factory=dict)  # cause -> eigenvalues that are zero


class SymmetricOperator(ABC):
    """An n x n real symmetric matrix known by its products.

    Subclasses call `super().__init__` and implement `matmat`; `check_operator` then tells whether
    the result is deterministic, linear and symmetric.
    """

    positive_semidefinite = False  # subclasses that cannot have negative eigenvalues say so

    def __init__(self, n: int, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        if n < 1:
            msg = f"n={n}: an operator needs at least one row."
            raise ValueError(msg)
        if not dtype.is_floating_point:
            msg = f"dtype={dtype}: an operator needs a real floating dtype such as torch.float64."
            raise ValueError(msg)
        self.n = n
        self.dtype = dtype
        self.device = torch.device(device)

    @abstractmethod
    def matmat(self, V: Tensor) -> Tensor:
        """A V for V of shape (n, k); costs k matvecs."""

    def inner(self, V: Tensor, W: Tensor) -> Tensor:
        """VᵀW, (n, k) x (n, l) -> (k, l), accumulated in float64 and returned as float64."""
        return accumulated_inner(V, W)

    def probe(self, seed: int) -> Tensor:
        """A standard normal vector (n,) that depends on `seed` alone."""
        return probes.gaussian(self.n, seed, dtype=self.dtype, device=self.device)

    def facts(self) -> dict[str, Any]:
        """What a reader of a result should know about how the products were made."""
        return {"operator": type(self).__name__, "n": self.n, "dtype": str(self.dtype)}

    def __matmul__(self, V: Tensor) -> Tensor:
        if V.ndim not in (1, 2) or V.shape[0] != self.n:
            msg = (
                f"cannot multiply an operator of size {self.n} x {self.n} with a tensor of shape "
                f"{tuple(V.shape)}; give shape ({self.n},) or ({self.n}, k)."
            )
            raise ValueError(msg)
        V = V.to(dtype=self.dtype, device=self.device)
        return self.matmat(V[:, None])[:, 0] if V.ndim == 1 else self.matmat(V)

    def __add__(self, other: SymmetricOperator) -> SymmetricOperator:
        return Combination(self, other, 1.0, 1.0) if _is_operator(other) else NotImplemented

    def __sub__(self, other: SymmetricOperator) -> SymmetricOperator:
        return Combination(self, other, 1.0, -1.0) if _is_operator(other) else NotImplemented

    def __mul__(self, factor: float) -> SymmetricOperator:
        return Scaled(self, float(factor)) if isinstance(factor, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> SymmetricOperator:
        return Scaled(self, -1.0)

    def to_dense(self, *, chunk: int = 64) -> Tensor:
        """The matrix itself, (n, n), from products with `chunk` unit vectors at a time; n matvecs.

        A new one each time: whoever asks may write over it, as `spectrum` does.

        >>> import torch, hesscope as hs
        >>> hs.as_operator(torch.eye(2)).to_dense()
        tensor([[1., 0.],
                [0., 1.]])
        """
        dense = torch.empty(self.n, self.n, dtype=self.dtype, device=self.device)
        for start in range(0, self.n, chunk):
            stop = min(start + chunk, self.n)
            unit = torch.zeros(self.n, stop - start, dtype=self.dtype, device=self.device)
            unit[torch.arange(start, stop), torch.arange(stop - start)] = 1.0
            dense[:, start:stop] = self.matmat(unit)
            progress.report("dense matrix: matvecs", stop, self.n)
        return dense

    def spectral_form(self) -> SpectralForm:
        """What `spectrum` diagonalises: the dense matrix, unless a subclass knows better."""
        return SpectralForm(self.n, self.to_dense, f"{self.n} matvecs", self.n)

    def to_scipy(self) -> LinearOperator:
        """This operator as a `scipy.sparse.linalg.LinearOperator` on NumPy arrays."""
        from scipy.sparse.linalg import LinearOperator  # scipy is optional

        def matmat(V: Any) -> Any:
            return (self @ torch.as_tensor(V)).cpu().numpy()

        numpy_dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(
            (self.n, self.n),
            matvec=lambda v: matmat(v.reshape(-1)),
            rmatvec=lambda v: matmat(v.reshape(-1)),
            matmat=matmat,
            dtype=numpy_dtype,
        )


class Combination(SymmetricOperator):
    """a A + b B; a product costs one product of each."""

    def __init__(self, A: SymmetricOperator, B: SymmetricOperator, a: float, b: float) -> None:
        if A.n != B.n or A.device != B.device:
            msg = (
                f"cannot combine an operator of size {A.n} on {A.device} "
                f"with one of size {B.n} on {B.device}."
            )
            raise ValueError(msg)
        super().__init__(A.n, dtype=torch.promote_types(A.dtype, B.dtype), device=A.device)
        self.A, self.B, self.a, self.b = A, B, a, b

    def matmat(self, V: Tensor) -> Tensor:
        """(a A + b B) V."""
        return self.a * (self.A @ V) + self.b * (self.B @ V)

    def facts(self) -> dict[str, Any]:
        """The facts of the first operator under the name of the combination."""
        name = f"{self.a:g} {self.A.facts()['operator']} + {self.b:g} {self.B.facts()['operator']}"
        return {**self.A.facts(), "operator": name}


class Scaled(SymmetricOperator):
    """c A."""

    def __init__(self, A: SymmetricOperator, factor: float) -> None:
        super().__init__(A.n, dtype=A.dtype, device=A.device)
        self.A, self.factor = A, factor

    def matmat(self, V: Tensor) -> Tensor:
        """c A V."""
        return self.factor * (self.A @ V)

    def facts(self) -> dict[str, Any]:
        """The facts of A under its scaled name."""
        return {**self.A.facts(), "operator": f"{self.factor:g} {self.A.facts()['operator']}"}


def _is_operator(other: object) -> bool:
    return isinstance(other, SymmetricOperator)

"""The class of all operators: products, algebra, and what is known without a product."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hesscope import probes, rounding
from hesscope.operator.factor import as_factor
from hesscope.operator.inner import accumulated_inner
from hesscope.operator.parts import ALIGNED, Parts, parts_of
from hesscope.operator.place import Place
from hesscope.operator.products import checked_product
from hesscope.system import progress
from hesscope.system.contexts import public_methods, users_methods

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


@dataclass(frozen=True)
class SpectralForm:
    """A matrix whose spectrum gives that of an operator, made on demand.

    The operator has the eigenvalues factor·λ + shift, with λ those of the matrix and n - size
    exact zeros that it leaves out.
    """

    size: int  # rows of the matrix
    assemble: Callable[[], Tensor]
    how: str  # how it is made, for the reader of a result
    num_matvecs: int = 0  # products that it costs
    zeros: Mapping[str, int] = field(default_factory=dict)  # cause -> how many are left out
    factor: float = 1.0
    shift: float = 0.0


@public_methods
class SymmetricOperator(ABC):
    """An n x n real symmetric matrix known by its products.

    Subclasses call `super().__init__` and implement `matmat`; `check_operator` then tells whether
    the result is deterministic, linear and symmetric. `A @ v` is a product, `v @ A` the row vector
    (A v)ᵀ; A + B, c A, A / c and `A + d * Identity(n)` are operators again.
    """

    positive_semidefinite = False  # subclasses that cannot have negative eigenvalues say so
    shared = False  # whether products are sums over processes, which have to ask for the same
    __array_ufunc__ = None  # NumPy leaves x * A and v @ A to the operator

    def __init_subclass__(cls) -> None:
        own = cls.__module__.startswith("hesscope.")
        (public_methods if own else users_methods)(cls)

    def __init__(self, n: int, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
            msg = f"n={n!r} is no whole number of rows."
            raise ValueError(msg)
        if n < 1:
            msg = f"n={n}: an operator needs at least one row."
            raise ValueError(msg)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            msg = f"dtype={dtype}: an operator needs a real floating dtype such as torch.float64."
            raise ValueError(msg)
        self.n = int(n)
        self.dtype = dtype
        self.device = torch.device(device)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return self.n, self.n

    @property
    def num_local(self) -> int:
        """Entries of a vector that this process holds: all n, unless vectors are in pieces."""
        return self.n

    @property
    def lower_bound(self) -> float:
        """No eigenvalue lies below, as is known without a product; -inf where nothing is known."""
        return 0.0 if self.positive_semidefinite else -math.inf

    @property
    def plain_inner(self) -> bool:
        """Whether the inner product is the usual one, so that vectors may be cut into pieces."""
        return type(self).inner is SymmetricOperator.inner

    @property
    def precision(self) -> torch.dtype:
        """The weakest dtype that products pass through, as far as is known."""
        return self.dtype

    def product_noise(self, size: float, asymmetry: float = 0.0) -> float:
        """What is left in a product with a unit vector, for an operator of this size.

        By rounding, and by iterations that end.
        """
        return rounding.product_noise(self.precision, size, asymmetry) + self.tolerance(size)

    def tolerance(self, size: float) -> float:  # noqa: ARG002  products are no iterations
        """The norm of what iterations leave undone in a product with a unit vector; 0 if none."""
        return 0.0

    @property
    def identity_part(self) -> float:
        """A multiple of I without which the rest is more of low rank: exact in every estimate."""
        return 0.0

    def measured_noise(self, v: Tensor) -> float:  # noqa: ARG002  nothing better is known
        """The norm of the error of A v, against better arithmetic; 0 where there is none.

        The largest over the columns, if v is of shape (n, k).
        """
        return 0.0

    @abstractmethod
    def matmat(self, V: Tensor) -> Tensor:
        """A V for V of shape (n, k); costs k matvecs."""

    def in_pieces(self, made_of_it: SymmetricOperator | None = None) -> SymmetricOperator:
        """This operator on vectors of which each of several processes holds its own piece.

        Or one that is made of it. The same where no processes share it.
        """
        return made_of_it or self

    @property
    def _by_pieces(self) -> bool:
        """Whether products need no whole vectors where each process has a piece."""
        return False

    def _piece_of_product(self, V: Tensor) -> Tensor | None:  # noqa: ARG002  whole vectors are known
        """The piece of A V from pieces of V, for an operator that needs no whole vectors."""
        return None

    @property
    def _parts(self) -> Parts:
        """The parts of vectors that this process holds, over each of which sums are taken."""
        return parts_of(self.n, self.device.type == "cpu")

    def collected(self, found: Tensor) -> Tensor:
        """The sum over all parts of vectors of what is found of those here, (parts, ...)."""
        return found.sum(0)

    def own_part(self, X: Tensor) -> Tensor:
        """What this process holds of vectors (n,) or (n, k): everything."""
        return X

    def whole(self, X: Tensor) -> Tensor:
        """The vectors of which this process holds X, as users know them."""
        return X

    def inner(self, V: Tensor, W: Tensor) -> Tensor:
        """VᵀW, (n, k) x (n, l) -> (k, l), accumulated in float64 and returned as float64."""
        return accumulated_inner(V, W)

    def probe(self, seed: int) -> Tensor:
        """A standard normal vector (n,) that depends on `seed` alone."""
        return probes.gaussian(self.n, seed, dtype=self.dtype, device=self.device)

    def fresh_seed(self) -> int:
        """A seed that nobody has known before: the same in all processes that share A."""
        return probes.fresh_seed()

    @property
    def writes(self) -> bool:
        """Whether this process writes the files of those that share A: the only one, or the first.

        It has to be the one that `of_one` asks.
        """
        return True

    def of_one(self, make: Callable[[], Any]) -> Any:
        """What one of the processes that share A makes, for all of them."""
        return make()

    def drawn_seed(self, given: int | None) -> int:
        """The seed that was given, or a fresh one for None.

        Raises:
            ValueError: if it is no integer.
        """
        return self.fresh_seed() if given is None else probes.as_seed(given)

    @property
    def _place(self) -> Place:
        """Where the vectors of algorithms live."""
        return Place()

    def free_bytes(self) -> int:
        """Memory that can still be had where its vectors live."""
        return self._free_bytes(self._place)

    def _free_bytes(self, place: Place) -> int:
        """The same of any place."""
        return place.free_bytes(self.device)

    def block(self, num: int) -> Tensor:
        """Room for so many vectors, (num, num_local), where they live; each begins aligned."""
        width = -(-self.num_local // ALIGNED) * ALIGNED
        return self._place.block(num, width, self.dtype, self.device)[:, : self.num_local]

    def made_of(self) -> dict[str, str]:
        """What its products are made of, in words and checksums: equal for equal operators."""
        own = (self._expression(), self.n, self.dtype, self.device)
        return dict(zip(("operator", "n", "dtype", "device"), map(str, own), strict=True))

    def facts(self) -> dict[str, Any]:
        """What a reader of a result should know about how the products were made."""
        return {"operator": self._expression(), "n": self.n, "dtype": str(self.dtype)}

    def __matmul__(self, V: Tensor) -> Tensor:
        if not isinstance(V, Tensor):
            V = _as_vectors(V)
        if V.ndim not in (1, 2) or V.shape[0] != self.num_local:
            msg = (
                f"cannot multiply an operator of size {self.n} x {self.n} with a tensor of shape "
                f"{tuple(V.shape)}; give shape ({self.n},) or ({self.n}, k)."
            )
            raise ValueError(msg)
        if V.dtype is not self.dtype or V.device != self.device:
            V = self._adopted(V)
        block = V[:, None] if V.ndim == 1 else V
        W = checked_product(self, block)
        return W[:, 0] if V.ndim == 1 else W

    def __rmatmul__(self, V: Tensor) -> Tensor:
        if not isinstance(V, Tensor):
            V = _as_vectors(V)
        if V.ndim not in (1, 2) or V.shape[-1] != self.n:
            msg = (
                f"cannot multiply a tensor of shape {tuple(V.shape)} with an operator of size "
                f"{self.n} x {self.n}; give shape ({self.n},) or (k, {self.n})."
            )
            raise ValueError(msg)
        return self @ V if V.ndim == 1 else (self @ V.T).T

    def __add__(self, other: Any) -> SymmetricOperator:
        return self._sum(1.0, other, 1.0, "A + {shift}")

    def __radd__(self, other: Any) -> SymmetricOperator:
        return self._sum(1.0, other, 1.0, "{shift} + A")

    def __sub__(self, other: Any) -> SymmetricOperator:
        return self._sum(1.0, other, -1.0, "A - {shift}")

    def __rsub__(self, other: Any) -> SymmetricOperator:
        return self._sum(-1.0, other, 1.0, "{shift} - A")

    def __mul__(self, factor: Any) -> SymmetricOperator:
        number = as_factor(factor)
        return NotImplemented if number is None else _combined((number, self))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> SymmetricOperator:
        number = as_factor(divisor)
        if number is None:
            return NotImplemented
        if number == 0.0:
            msg = "an operator cannot be divided by zero; give another divisor."
            raise ValueError(msg)
        return _combined((1.0 / number, self))

    def __neg__(self) -> SymmetricOperator:
        return _combined((-1.0, self))

    def __repr__(self) -> str:
        return f"<{self._expression()}: {self.n} x {self.n}, {self.dtype}, {self.device}>"

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
            dense[:, start:stop] = self @ unit
            progress.report("dense matrix: matvecs", stop, self.n)
        return dense

    def spectral_form(self) -> SpectralForm:
        """What `spectrum` diagonalises: the dense matrix, unless a subclass knows better."""
        return SpectralForm(self.n, self.to_dense, f"{self.n} matvecs", self.n)

    def submatrix(self, where: Tensor | slice | Sequence[int]) -> SymmetricOperator:
        """The principal submatrix on some coordinates; a product costs one of this operator.

        For parts of a tensor: `problem.block` has whole ones.

        Args:
            where: indices of any shape, a slice, or a mask (n,) of booleans. Those of the entries
                of a parameter are `problem.layout.coordinates(name)`, in its shape.

        Raises:
            ValueError: if they are no coordinates of this operator, or one is there twice; if its
                vectors have another inner product than the usual one.

        >>> import torch, hesscope as hs
        >>> hs.as_operator(torch.tensor([[1.0, 2.0], [2.0, 5.0]])).submatrix([1]).to_dense()
        tensor([[5.]])
        """
        from hesscope.operator.submatrix import as_coordinates  # a Submatrix is an operator itself

        if not self.plain_inner or self.num_local != self.n:
            msg = (
                f"{self._expression()} acts on vectors with an inner product of their own, or in "
                "pieces, of which coordinates are no part."
            )
            raise ValueError(msg)
        return self._part(as_coordinates(where, self.n, self.device))

    def _part(self, where: Tensor) -> SymmetricOperator:
        from hesscope.operator.submatrix import Submatrix

        return Submatrix(self, where)

    def to_scipy(self) -> LinearOperator:
        """This operator as a `scipy.sparse.linalg.LinearOperator` on NumPy arrays."""
        from scipy.sparse.linalg import LinearOperator  # scipy is optional

        def matmat(V: Any) -> Any:
            return (self @ _as_vectors(V)).cpu().numpy()

        numpy_dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(
            (self.n, self.n),
            matvec=lambda v: matmat(v.reshape(-1)),
            rmatvec=lambda v: matmat(v.reshape(-1)),
            matmat=matmat,
            dtype=numpy_dtype,
        )

    def _sum(self, own: float, other: Any, factor: float, written: str) -> SymmetricOperator:
        """own A + factor B.

        Raises:
            TypeError: if B is a number other than 0: added to the diagonal, or to every entry?
        """
        if isinstance(other, SymmetricOperator):
            return _combined((own, self), (factor, other))
        if isinstance(other, (Tensor, np.ndarray)) and other.ndim == 2:
            msg = "a matrix and an operator are added as operators: wrap it with hs.as_operator."
            raise TypeError(msg)
        number = as_factor(other)
        if number is None:
            return NotImplemented
        if number == 0.0:  # whichever is meant; sum([A, B]) begins with 0 + A
            return _combined((own, self))
        shift = f"{number:g} * hs.Identity({self.n})"
        msg = (
            "an operator and a number have no sum: it could be added to the diagonal or to every "
            f"entry. For the eigenvalues shifted by it write {written.format(shift=shift)}."
        )
        raise TypeError(msg)

    def _terms(self) -> list[tuple[float, SymmetricOperator]]:
        """Factors and operators of which this one is the sum."""
        return [(1.0, self)]

    def _expression(self) -> str:
        """What a reader should call this operator."""
        return type(self).__name__

    def _adopted(self, V: Tensor) -> Tensor:
        """Vectors in the dtype and on the device of the operator.

        Raises:
            TypeError: if they are complex.
        """
        if V.is_complex():
            msg = f"cannot multiply a real operator with {V.dtype}; give V.real and V.imag in turn."
            raise TypeError(msg)
        return V.to(dtype=self.dtype, device=self.device)


def _as_vectors(V: Any) -> Tensor:
    """A NumPy array as a tensor.

    Raises:
        TypeError: if it is none, or V is an operator.
    """
    if isinstance(V, SymmetricOperator):
        msg = (
            "the product of two symmetric operators is not symmetric in general; for its product "
            "with vectors write A @ (B @ V)."
        )
        raise TypeError(msg)
    if not isinstance(V, np.ndarray):
        msg = f"cannot multiply an operator with a {type(V).__name__}; give a tensor of vectors."
        raise TypeError(msg)
    return torch.from_numpy(np.ascontiguousarray(V))


def _combined(*terms: tuple[float, SymmetricOperator]) -> SymmetricOperator:
    from hesscope.operator.combination import combined  # a Combination is an operator itself

    return combined(*terms)

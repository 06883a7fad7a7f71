"""Operators of any size, brought to order one where squares would leave the range of floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hesscope import rounding
from hesscope.operator.derived import Derived
from hesscope.operator.inner import norm
from hesscope.operator.symmetric import SymmetricOperator

T = TypeVar("T")
Number = TypeVar("Number", float, NDArray[np.float64])

LARGEST_EXPONENT, SMALLEST_EXPONENT = 1_023, -1_074  # of a power of two that is a float


class OutOfRangeError(RuntimeError):
    """A product so large or small that squares of its entries are no numbers."""

    def __init__(self, size: float, product: tuple[Tensor, Tensor] | None = None) -> None:
        factor = 1e100 if size < 1 else 1e-100
        super().__init__(
            f"products of the operator are of size {size:.0e}, whose square leaves the range of "
            f"floats; take a multiple, {factor:g} * A."
        )
        self.size = size
        self.product = product  # a vector and what A makes of it: not computed twice


class Scaled(Derived):
    """A divided by a power of two, which changes no digit."""

    def __init__(
        self, A: SymmetricOperator, exponent: int, product: tuple[Tensor, Tensor] | None
    ) -> None:
        super().__init__(A)
        self.exponent, self.known = exponent, product
        self.unit = math.ldexp(1.0, exponent)
        self.positive_semidefinite = A.positive_semidefinite

    @property
    def lower_bound(self) -> float:
        """That of A, in its unit."""
        return self.A.lower_bound / self.unit

    def matmat(self, V: Tensor) -> Tensor:
        """A V / unit; the product that told the size is not made again."""
        known, self.known = self.known, None
        if known is not None and V.shape[1] == 1 and torch.equal(V[:, 0], known[0]):
            return divided(known[1][:, None], self.exponent)
        return divided(self.A @ V, self.exponent)

    def product_noise(self, size: float, asymmetry: float = 0.0) -> float:
        """That of any operator, and what A's products lose where they leave the range of floats."""
        lost = rounding.underflow(self.dtype, self.n) * rounding.eps(self.dtype) / self.unit
        return super().product_noise(size, asymmetry) + lost

    def tolerance(self, size: float) -> float:
        """That of A, in its unit."""
        return self.A.tolerance(size * self.unit) / self.unit

    @property
    def identity_part(self) -> float:
        """That of A, in its unit."""
        return self.A.identity_part / self.unit

    def measured_noise(self, v: Tensor) -> float:
        """That of A, in its unit."""
        return self.A.measured_noise(v) / self.unit

    def _expression(self) -> str:
        return self.A._expression()


def at_order_one(A: SymmetricOperator, work: Callable[[SymmetricOperator, float], T]) -> T:
    """work(A, 1), or where products leave the range, work(A / unit, unit) with a power of two.

    Whoever works gives numbers back in units of A: times `unit`, errors by `in_units`.
    """
    try:
        return work(A, 1.0)
    except OutOfRangeError as seen:
        exponent = math.frexp(seen.size)[1] if math.isfinite(seen.size) else LARGEST_EXPONENT
        exponent = min(max(exponent, SMALLEST_EXPONENT), LARGEST_EXPONENT)
        return work(Scaled(A, exponent, seen.product), math.ldexp(1.0, exponent))


def refuse_out_of_range(A: SymmetricOperator, v: Tensor, w: Tensor) -> None:
    """A look at a product w = A v, of which squares will be taken.

    Raises:
        OutOfRangeError: if it is too large or too small for that; zero is of no size.
    """
    size = norm(A, w)
    if not rounding.squares_are_numbers(A.dtype, size):
        raise OutOfRangeError(size, (v, w))


def divided(W: Tensor, exponent: int) -> Tensor:
    """W / 2^exponent, exactly: in two steps, because the factor itself may be no float."""
    half = exponent // 2
    return W * math.ldexp(1.0, -half) * math.ldexp(1.0, half - exponent)


def in_units(error: Number, unit: float) -> Number:
    """An error, or an upper bound, in units of A: not less where it is smaller than any float."""
    return error if unit == 1.0 else error * unit + rounding.tiny() * rounding.eps()

"""Products that are what they should be: of the right form, and finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hesscope import rounding

if TYPE_CHECKING:
    from hesscope.operator.symmetric import SymmetricOperator


NOT_FINITE = (
    "a product of the operator with a finite vector is NaN or infinite; hs.check_problem names the "
    "cause."
)


def finite_product(A: SymmetricOperator, V: Tensor) -> Tensor:
    """A V, (n,) or (n, k), which every algorithm takes instead of A @ V. Costs a sum over it.

    Raises:
        ValueError: if `matmat` returns anything but a tensor like V.
        RuntimeError: if an entry is NaN or infinite.
    """
    W = A @ V
    # A sum of finite numbers may overflow, so that it accuses, but does not convict.
    if not math.isfinite(float(W.sum())) and not bool(torch.isfinite(W).all()):
        raise RuntimeError(NOT_FINITE)
    return W


def checked_product(A: SymmetricOperator, V: Tensor) -> Tensor:
    """A V for a block V (n, k) as `matmat` gives it, once it is known to be a product at all.

    Raises:
        ValueError: if `matmat` fails in the user's code, returns anything but a tensor like V, or
            writes into V.
        RuntimeError: what `matmat` raises of that kind, as it is.
    """
    version = None if V.is_inference() else V._version
    try:
        W = A.matmat(V)
    except (RuntimeError, ValueError):  # these say what they mean
        raise
    except Exception as error:
        msg = (
            f"{type(A).__name__}.matmat raised {type(error).__name__}: {error}, for a block V of "
            f"shape {tuple(V.shape)}; it must return A @ V for every number of columns."
        )
        raise ValueError(msg) from error
    fault = fault_of_product(V, W)
    if not fault and version is not None and V._version != version:
        fault = "wrote into its argument V; it must leave V as it is and return a new tensor."
    if fault:
        msg = f"{type(A).__name__}.matmat {fault}"
        raise ValueError(msg)
    return W.detach() if W.requires_grad else W


def refuse_size(size: float, *, small: bool = True) -> None:
    """Whether squares of numbers of this size are numbers of float64; zero is of no size.

    Raises:
        RuntimeError: if they are too large, or, with `small`, too small.
    """
    if size > rounding.LARGEST or (small and 0 < size < 1 / rounding.LARGEST):
        msg = (
            f"products of the operator are of size {size:.0e}, whose square leaves the range of "
            f"float64; take a multiple, {1e100 if size < 1 else 1e-100:g} * A."
        )
        raise RuntimeError(msg)


def column_products(A: SymmetricOperator, V: Tensor, told: Callable[[int], None]) -> Tensor:
    """A V one column after the other; `told` is told after each how many there are.

    Raises:
        ValueError: as `finite_product`.
        RuntimeError: as `finite_product`.
    """
    W = torch.empty_like(V)
    for i in range(V.shape[1]):
        W[:, i] = finite_product(A, V[:, i])
        told(i + 1)
    return W


def fault_of_product(V: Tensor, W: Any) -> str:
    """What is wrong with the form of W = A V as a product, in words; nothing if it is "".

    >>> fault_of_product(torch.ones(3, 1), torch.ones(3))
    'returned a tensor of shape (3,), ... the shape, dtype and device of V: (3, 1), ...'
    """
    if not isinstance(W, Tensor):
        return f"returned a {type(W).__name__}; it must return a tensor like V."
    if W.layout is not torch.strided:
        return f"returned a tensor of layout {W.layout}; return a dense one, W.to_dense()."
    if W.shape == V.shape and W.dtype is V.dtype and W.device == V.device:
        return ""
    return (
        f"returned a tensor of shape {tuple(W.shape)}, {W.dtype}, {W.device}; a product has the "
        f"shape, dtype and device of V: {tuple(V.shape)}, {V.dtype}, {V.device}."
    )

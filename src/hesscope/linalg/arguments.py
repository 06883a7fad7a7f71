"""The door of `eigsh`: what it refuses, and the next thing to type."""

from __future__ import annotations

import math

from torch import Tensor

from hesscope.linalg.wanted import WORDS
from hesscope.operator import SymmetricOperator


def check_arguments(A: SymmetricOperator, k: int, which: str, tol: float, delta: float) -> None:
    """Is this a question that can be asked of A?

    Raises:
        ValueError: if not.
    """
    if not isinstance(A, SymmetricOperator):
        msg = f"A is a {type(A).__name__}; wrap a matrix or a function with hs.as_operator."
        raise ValueError(msg)
    if not isinstance(k, int) or not 1 <= k <= A.n:
        msg = f"k={k} eigenpairs of an operator of size n={A.n}; choose 1 <= k <= {A.n}."
        raise ValueError(msg)
    if which not in WORDS:
        msg = f"which={which!r}; choose one of 'LA', 'SA', 'LM', 'BE' (as in scipy's eigsh)."
        raise ValueError(msg)
    if not 0 < tol < 1 or not 0 < delta < 1:
        msg = f"tol={tol} and delta={delta} must lie between 0 and 1; try tol=1e-3, delta=1e-3."
        raise ValueError(msg)


def check_limits(
    A: SymmetricOperator,
    k: int,
    start: Tensor | None,
    max_matvecs: int | None,
    max_basis: int | None,
) -> None:
    """Can it be answered from this start and with these means?

    Raises:
        ValueError: if not.
    """
    if start is not None:
        usable = start.ndim in {1, 2} and start.shape[0] == A.n
        size = float(start.reshape(A.n, -1).sum(1).norm()) if usable else math.nan
        if not 0 < size < math.inf:
            msg = (
                f"start has shape {tuple(start.shape)} and its columns add up to a vector of norm "
                f"{size:g}; give a non-zero finite vector ({A.n},) or block ({A.n}, m)."
            )
            raise ValueError(msg)
    if max_matvecs is not None and max_matvecs < 1:
        msg = f"max_matvecs={max_matvecs} leaves nothing to compute with; give at least 2 k."
        raise ValueError(msg)
    if max_basis is not None and max_basis < min(A.n, 2 * k + 10):
        msg = (
            f"max_basis={max_basis} vectors are too few to restart with k={k}; give at least "
            f"{min(A.n, 2 * k + 10)}."
        )
        raise ValueError(msg)

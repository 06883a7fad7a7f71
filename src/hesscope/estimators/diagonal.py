"""The diagonal of an operator that is known by its products only."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from hesscope import probes, rounding
from hesscope.operator import (
    Identity,
    OperatorLike,
    SymmetricOperator,
    at_order_one,
    column_products,
    refuse_out_of_range,
    symmetric_operator,
)
from hesscope.results.estimate import Diagonal
from hesscope.system import progress
from hesscope.system.contexts import public


@public
def diagonal(A: OperatorLike, max_matvecs: int = 100, *, seed: int | None = None) -> Diagonal:
    """All n diagonal entries A_ii, estimated by XDiag, with the error of the whole vector.

    A multiple of the identity that A is known to contain (a damping) is taken out first and put
    back exactly. Half of the products find a basis Q of what A does to random signs Ω, the other
    half give QᵀA, and for each column the estimate built from the other columns is corrected by a
    product with this one, so that no product is used up on one purpose (Epperly, Tropp and Webber
    2024, XDiag). Unbiased. From 2 n products on, n columns of A are taken instead and nothing is
    random.

    Args:
        A: the operator, or a matrix as for `as_operator`.
        max_matvecs: products, an even number of at least 4; half as many vectors are kept.
        seed: of the random signs; a fresh one by default, which the result keeps.

    Returns:
        Values (n,), and `error`, an estimate of their ‖·‖₂ error from the spread of the
        leave-one-out estimates: a standard error, not a bound. Entries beside which it is not
        small are not known.

    Raises:
        ValueError: if max_matvecs is odd or less than 4.
        RuntimeError: if a product is not finite.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0]).double()))
    >>> hs.diagonal(A, max_matvecs=8).values
    tensor([3., 2., 1., 0.], dtype=torch.float64)
    """
    A = symmetric_operator(A)
    if max_matvecs < 4 or max_matvecs % 2:
        msg = f"max_matvecs={max_matvecs} must be even and at least 4: half goes to each side."
        raise ValueError(msg)
    if max_matvecs >= 2 * A.n:
        dense = A.to_dense()
        size = float(torch.linalg.vector_norm(dense, dim=0).max())
        return Diagonal(dense.diagonal().cpu().double(), _undone(A, size), A.n)
    own, shift = A.drawn_seed(seed), A.identity_part
    rest = A - shift * Identity(A.n) if shift else A
    found = at_order_one(rest, lambda B, unit: _estimated(B, max_matvecs, own, unit))
    return replace(found, values=found.values + shift)


def _estimated(A: SymmetricOperator, max_matvecs: int, seed: int, unit: float) -> Diagonal:
    """XDiag of A, in units."""
    num = max_matvecs // 2
    keys = (probes.key(seed, "signs of a diagonal", i) for i in range(num))
    signs = torch.stack([_signs(A, key) for key in keys], 1)
    Y = _products(A, signs, 0, max_matvecs)
    Q, S = _basis(Y)
    Z = _products(A, Q, num, num + Q.shape[1])
    each = _leave_one_out(signs, Y, Q, S, Z)
    values = each.mean(1)
    # Where the columns of Y stand alone (a flat spectrum), an estimate is a sum over pairs of signs
    # that are in two estimates each: the variance of the mean is twice that of independent ones.
    spread = math.sqrt(2 * float((each - values[:, None]).square().sum()) / (num * (num - 1)))
    size = float(torch.linalg.vector_norm(Y, dim=0).max()) / math.sqrt(A.n)
    error = math.hypot(spread, _undone(A, size))
    return Diagonal(values.double().cpu() * unit, error * unit, num + Q.shape[1], seed)


def _undone(A: SymmetricOperator, size: float) -> float:
    """A bound on the norm of what iterations leave undone in n entries, one of each column."""
    return math.sqrt(A.n) * A.tolerance(size)


def _basis(Y: Tensor) -> tuple[Tensor, Tensor]:
    """Q (n, r), orthonormal with the span of Y, and the directions S (r, num).

    Without column i of Y the span is Q less the direction s_i, orthogonal to the other columns of
    QᵀY: the i-th row of its inverse, normalised. Columns that the others span (an operator of low
    rank, signs that repeat) take nothing away: s_i = 0.
    """
    Q, R = torch.linalg.qr(Y)
    small = rounding.rank_threshold(Y.dtype, len(R), float(R.abs().max()))
    if float(R.diagonal().abs().min()) > small:
        eye = torch.eye(len(R), dtype=R.dtype, device=R.device)
        S = torch.linalg.solve_triangular(R.T, eye, upper=False)
        return Q, S / S.norm(dim=0)
    U, sizes, Vh = torch.linalg.svd(R)
    rank = int((sizes > small).sum())
    V = Vh[:rank].T
    S = (V / sizes[:rank]).T
    alone = V.square().sum(1) > 1 - 1e-6  # the i-th unit vector is in the row space
    return Q @ U[:, :rank], alone * S / S.norm(dim=0).clamp(min=rounding.POSITIVE)


def _leave_one_out(signs: Tensor, Y: Tensor, Q: Tensor, S: Tensor, Z: Tensor) -> Tensor:
    """The estimates (n, num) that leave out one column each.

    Without column i the basis Q_i has Q_i Q_iᵀ = Q (I - s_i s_iᵀ) Qᵀ. What it leaves of the
    diagonal is ω∘(A - Q_i Q_iᵀ A) ω.
    """
    base = (Q * Z).sum(1, keepdim=True) - (Q @ S) * (Z @ S)
    coefficients = Z.T @ signs  # QᵀA ω_i in column i
    coefficients = coefficients - S * (S * coefficients).sum(0)
    return base + signs * (Y - Q @ coefficients)


def _signs(A: SymmetricOperator, seed: int) -> Tensor:
    return torch.where(A.probe(seed) >= 0, 1.0, -1.0).to(A.dtype)


def _products(A: SymmetricOperator, V: Tensor, done: int, total: int) -> Tensor:
    """A V, with progress.

    Raises:
        ValueError: if a product is of the wrong form.
        RuntimeError: if a product is not finite, or `at_order_one` has to scale A.
    """
    W = column_products(A, V, lambda i: progress.report("diagonal: matvecs", done + i, total))
    if done == 0:
        refuse_out_of_range(A, V[:, 0], W[:, 0])
    return W

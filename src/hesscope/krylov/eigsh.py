"""Extreme eigenpairs: Lanczos until converged, lock, then verify that nothing was missed."""

from __future__ import annotations

import math
import warnings

from torch import Tensor

from hesscope.krylov.lanczos import independent_seed
from hesscope.krylov.refined import refined, result
from hesscope.krylov.rounds import Request
from hesscope.krylov.search import search, verified
from hesscope.krylov.wanted import WORDS, Wanted, Which
from hesscope.operator import (
    OperatorLike,
    PlaceLike,
    SymmetricOperator,
    at_order_one,
    placed,
    symmetric_operator,
)
from hesscope.results.spectrum import Eigenpairs
from hesscope.system.contexts import public
from hesscope.system.memory import human, is_out_of_memory

USUAL = 6  # pairs
USUAL_ROWS = 40  # and four for each pair: two runs, what is locked, and residuals
BASIS_SHARE = 0.4  # of the free memory that the Krylov basis may take


@public
def eigsh(
    A: OperatorLike,
    k: int | None = None,
    which: Which = "LA",
    *,
    tol: float = 1e-3,
    verify: bool = True,
    start: Tensor | None = None,
    max_matvecs: int | None = None,
    seed: int | None = None,
    delta: float = 1e-3,
    max_basis: int | None = None,
    basis: PlaceLike = "auto",
) -> Eigenpairs:
    """k extreme eigenpairs of A, with true residuals and a proof that none was skipped.

    Lanczos with full reorthogonalisation runs until every wanted residual is below tol·|θ|. With
    `verify`, the pairs are locked and a fresh random start in their complement must certify that
    nothing beyond the k-th is left there; further copies of a multiple eigenvalue show up in this
    round and are added. Without, the first run's own certificate excludes skipped values, up to
    copies. Residuals come from all coefficients of the run, not from its recurrence alone, with
    rounding noise added; one product of a random combination of the pairs checks that the operator
    is still the same (else each pair gets a fresh one). Products that are not symmetric to rounding
    are those of a matrix whose symmetric part (A + Aᵀ)/2 is looked at: eight more of them measure
    how far it is away, which is part of residuals and certificate.

    Args:
        A: the operator, or a matrix as for `as_operator`.
        k: how many pairs, 1 <= k <= n; by default 6, or n where that is less.
        which: "LA" largest, "SA" smallest, "LM" largest in absolute value, "BE" both ends (the
            larger half from the top). The most wanted eigenvalue comes first.
        tol: residual relative to |eigenvalue| at which a pair is converged.
        verify: find copies of printed values too, by a second random start.
        start: a warm vector (n,) or several (n, m), mixed with a random tenth.
        max_matvecs: an upper limit on products, residuals included; what is not converged by
            then is still returned.
        seed: of the random starts; None draws a fresh one, which the result keeps. A seed of your
            own gives the same numbers again, and its certificate holds for every matrix that was
            not built from what this seed draws.
        delta: probability that a certificate is wrong.
        max_basis: vectors to keep before a thick restart, at least 2 k + 10; by default what
            40 % of the free memory, or of the place `basis`, holds.
        basis: where vectors are kept: "memory" of the device of A, "host" memory, "disk" (files
            that are gone when the search is), or a `Path` to a folder on a disk. "auto" takes
            memory while it holds about 4 k + 40 vectors or `max_basis`, then host and disk. The
            numbers are the same: to the bit from disk on a CPU, to rounding from the host on a
            GPU. Memory then holds some 3 k + 12 vectors.

    Returns:
        The pairs. About k + 15 matvecs to converge, 10 to verify and one for the residuals, when
        eigenvalues are separated; more without gaps, and then `notes` says so. Interrupted from
        the keyboard, it warns and returns what was found until then.

    Raises:
        ValueError: for arguments out of range, or a `basis` that is no place.
        RuntimeError: if a product is not finite, A is not symmetric, or memory runs out before
            anything is found.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.tensor([5.0, 5.0, 1.0, 0.0]).double()))
    >>> hs.eigsh(A, k=3).eigenvalues.round(decimals=9)
    tensor([5., 5., 1.], dtype=torch.float64)
    """
    A = symmetric_operator(A)
    k, seed = min(USUAL, A.n) if k is None else k, A.drawn_seed(seed)
    check_arguments(A, k, which, tol, delta)
    check_limits(A, k, start, max_matvecs, max_basis)
    budget, A = max_matvecs or 21 * k + 200, _placed(A.in_pieces(), basis, max_basis, k)

    def answer(B: SymmetricOperator, unit: float) -> Eigenpairs:
        request = Request(
            A=B,
            wanted=Wanted(k, which),
            tol=tol,
            verify=verify,
            delta=delta,
            seed=seed,
            first_seed=seed if start is None else independent_seed(seed, start),
            start=start,
            budget=budget,
            limit=max(1, budget - 1),  # one product checks the pairs
            max_rows=max_basis or _rows_that_fit(B, k),
            unit=unit,
        )
        found = search(request)
        proof, pairs = verified(request, found), refined(request, found)
        if pairs.stopped == "interrupted":
            warnings.warn("interrupted: returning the eigenpairs found so far", stacklevel=6)
        return result(request, found, proof, pairs)

    try:
        return at_order_one(A, answer)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        msg = (
            f"memory ran out with {A.n} numbers to a vector ({human(A.n * A.dtype.itemsize)}): ask "
            f"for fewer pairs or a smaller basis, max_basis={2 * k + 10}, or give the data in "
            f"smaller batches. The cause: {error}"
        )
        raise RuntimeError(msg) from error


def _placed(
    A: SymmetricOperator, basis: PlaceLike, max_basis: int | None, k: int
) -> SymmetricOperator:
    """A with its vectors where so many, or all that there are, take their share of what is free."""
    rows = min(max_basis or 4 * k + USUAL_ROWS, 2 * A.n)
    return placed(A, basis, rows * A.num_local * A.dtype.itemsize / BASIS_SHARE)


def _rows_that_fit(A: SymmetricOperator, k: int) -> int:
    row = max(1, A.num_local) * A.dtype.itemsize
    return max(2 * k + 20, int(BASIS_SHARE * A.free_bytes() // row))


def check_arguments(A: SymmetricOperator, k: int, which: str, tol: float, delta: float) -> None:
    """Is this a question that can be asked of A?

    Raises:
        ValueError: if not.
    """
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

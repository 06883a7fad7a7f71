"""How far the space of some eigenvectors has turned, and how far that is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from hesscope.krylov.wanted import Wanted, Which
from hesscope.operator import SymmetricOperator
from hesscope.results.checkpoint_spectrum import Overlap
from hesscope.results.spectrum import Eigenpairs


def outermost(pairs: Eigenpairs, k: int, which: Which) -> tuple[Eigenpairs, float]:
    """The k most wanted of some pairs, and their gap to all others, if nothing was skipped.

    The others are told by the pairs that are left: one, or one at each end for "BE". The gap is inf
    where there are none.

    >>> import torch, hesscope as hs
    >>> pairs = hs.eigsh(torch.diag(torch.tensor([5.0, 4.0, 1.0, 0.0]).double()), 3)
    >>> found, gap = outermost(pairs, 2, "LA")
    >>> found.eigenvalues.round().tolist(), round(gap, 6)
    ([5.0, 4.0], 3.0)
    """
    values, errors = (t.cpu().double().numpy() for t in (pairs.eigenvalues, pairs.residuals))
    chosen = Wanted(k, which).choose(values)
    index = torch.from_numpy(chosen.copy())
    found = replace(
        pairs,
        eigenvalues=pairs.eigenvalues[index],
        eigenvectors=pairs.eigenvectors[:, index.to(pairs.eigenvectors.device)],
        residuals=pairs.residuals[index],
        converged=pairs.converged[index],
    )
    others = np.setdiff1d(np.arange(len(values)), chosen)
    if not len(others):
        return found, math.inf
    low, high = Wanted(k, which).region(values[chosen])
    distance = np.minimum(high - values[others], values[others] - low) - errors[others]
    return found, float(distance.min())


def space_error(found: Eigenpairs, gap: float) -> float:
    """A bound of ‖sin Θ‖_F, Θ the angles to the true space: ‖R‖_F/gap (Davis and Kahan 1970)."""
    if gap == math.inf:
        return 0.0
    size = float(found.residuals.double().norm())
    return size / gap if gap > 0 else math.inf


def overlap(
    A: SymmetricOperator,
    X: torch.Tensor,
    Y: torch.Tensor,
    errors: tuple[float, float],
) -> Overlap:
    """Principal angles between two spaces of eigenvectors, (n, k) each, with their errors.

    With s the sum of the two ‖sin Θ‖_F, no angle is off by more than the angles of which s is made,
    for the largest angle is a metric (Qiu, Zhang and Li 2005). The overlap tr(PQ)/k is off by
    (2 s √(Σ c²(1 - c²)) + s²)/k at most: a turn of P by S changes tr(PQ) by 2 tr(S (1 - P) Q P) to
    first order, and ‖(1 - P) Q P‖²_F is the sum of c²(1 - c²) over the cosines c.

    >>> import hesscope as hs
    >>> A, e = hs.as_operator(torch.eye(3).double()), torch.eye(3).double()
    >>> overlap(A, e[:, :2], e[:, 1:], (0.0, 0.0)).mean_square
    0.5
    """
    cosines = torch.linalg.svdvals(A.inner(X, Y)).clamp(max=1.0).double().cpu()
    k = len(cosines)
    squares = cosines.square()
    s = sum(errors)
    slope = float((squares * (1 - squares)).sum().sqrt())
    off = (2 * s * slope + s**2) / k if math.isfinite(s) else math.inf
    turned = sum(math.asin(min(error, 1.0)) for error in errors)
    return Overlap(
        angles=torch.acos(cosines),
        angle_error=min(turned, math.pi / 2),
        mean_square=float(squares.mean()),
        error=min(off, 1.0),
    )

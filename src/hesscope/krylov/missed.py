"""What a run adds to the locked pairs, what it may have missed, and when it may stop."""

from __future__ import annotations

import numpy as np

from hesscope.krylov import certificate
from hesscope.krylov.lanczos import Lanczos, Recurrence
from hesscope.krylov.rounds import Found, Request
from hesscope.krylov.wanted import gaps

WINDOW = 1e-3  # of the largest wanted |eigenvalue|: nearer ones are not told apart by certificates
STRICTER = (
    0.85  # times tol while running: what is locked later adds to the residuals of the earlier
)


def finished(request: Request, found: Found, run: Lanczos) -> bool:
    """Whether a run has what it was made for: converged pairs, or proof that there are none."""
    theta, _, residuals = run.ritz()
    if len(found.values) + len(theta) < request.wanted.k:
        return False
    noise = run.noise
    new = new_values(request, found, theta, noise)
    allowed = np.maximum(STRICTER * request.tol * np.abs(theta[new]), noise)
    if not (residuals[new] <= allowed).all():
        return False
    if not found.rounds:
        if request.verify or run.restarted:
            return True
        return risk(request, found.values, theta, run.recurrence, noise) <= first_allowance(request)
    if len(new) > 0 or run.restarted:  # a restarted run proves no more than before
        return True
    left = risk(request, found.values, theta, run.recurrence, noise, found.shift)
    return certificate.combined([*found.risks, left]) <= allowance(request, len(found.rounds))


def new_values(request: Request, found: Found, theta: np.ndarray, noise: float) -> np.ndarray:
    """Indices of the Ritz values that are wanted and not a copy of the locked k-th."""
    known = len(found.values)
    chosen = request.wanted.choose(np.concatenate([found.values, theta]))
    new = chosen[chosen >= known] - known
    if known < request.wanted.k:
        return new
    printed = request.wanted.choose(found.values)
    low, high = request.wanted.region(found.values[printed])
    margin = 10 * noise + float(found.estimates[printed].max())
    beyond = (theta[new] > high + margin) | (theta[new] < low - margin)
    fresh: np.ndarray = new[beyond]
    return fresh


def risk(
    request: Request,
    values: np.ndarray,
    theta: np.ndarray,
    recurrence: Recurrence,
    noise: float,
    shift: float = 0.0,
) -> float:
    """The risk that something in the wanted region, away from the Ritz values, is unseen.

    Args:
        request: what is wanted.
        values: what is locked.
        theta: the Ritz values of the run, ascending.
        recurrence: of the run.
        noise: what rounding leaves in a residual.
        shift: by how much nearer than the window the proof has to come, for spare pairs.
    """
    if len(theta) == 0 or len(values) + len(theta) < request.wanted.k:
        return 1.0
    if recurrence.scale == 0.0:  # every product vanished
        return 0.0
    enough = len(values) >= request.wanted.k
    known = values if enough else np.concatenate([values, theta])
    chosen = known[request.wanted.choose(known)]
    low, high = request.wanted.region(chosen)
    around = window(chosen, noise)
    return certificate.risk(
        recurrence,
        [
            (a - shift * (a == high + around), b + shift * (b == low - around))
            for a, b in gaps(theta, low, high, around)
        ],
    )


def window(theta: np.ndarray, noise: float) -> float:
    """Eigenvalues nearer than this to a wanted one are not told apart from it."""
    return max(WINDOW * float(np.abs(theta).max(initial=0.0)), noise)


def first_allowance(request: Request) -> float:
    """The risk that a first run may leave: half of delta for k eigenvectors together.

    Is one of the k wanted values missed, then the start had too little of its eigenvector. The
    other half of delta is for the bounds on all eigenvalues, at either end a quarter.
    """
    return request.delta / (2 * request.wanted.k)


def allowance(request: Request, num_rounds: int) -> float:
    """The risk that may be left in the complement: half of delta for all rounds together.

    There, at each end, only the outermost eigenvector counts. Most lists need one such round,
    so it gets most of the share, and the r-th 1/(4 (r - 1) r): together 1. What a round leaves
    falls faster than that, so that rounds that prove little end, too. `num_rounds` came before.
    """
    ends = 2 if request.wanted.which in {"LM", "BE"} else 1
    r = max(num_rounds, 1)
    return request.delta / (2 * ends) * (3 / 4 if r == 1 else 1 / (4 * (r - 1) * r))

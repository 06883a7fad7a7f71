"""Fresh products for the pairs that a search has found, and what is said about them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hesscope.krylov import certificate, skew
from hesscope.krylov.missed import window
from hesscope.krylov.noise import noise_anywhere, noise_in_span, told
from hesscope.krylov.rounds import Found, Request
from hesscope.krylov.search import Verified
from hesscope.krylov.skew import Skew, skew_of
from hesscope.krylov.wanted import Wanted, statement
from hesscope.operator import column_products, in_units, norm
from hesscope.results.spectrum import Certificate, Eigenpairs
from hesscope.system import interrupts, progress

OUT_OF_MEMORY = "out of memory"
CROWD = 8  # eigenvalues within a third of the outermost: asking for pairs is the wrong question


@dataclass(frozen=True)
class Refined:
    """The wanted pairs, the most wanted first, and the products spent until here."""

    vectors: Tensor  # (n, k)
    values: np.ndarray
    residuals: np.ndarray
    fresh: bool  # whether residuals come from products of their own
    num_matvecs: int
    stopped: str
    skew: Skew


def refined(request: Request, found: Found) -> Refined:
    """The wanted pairs by Rayleigh and Ritz on fresh products, if there are products for that.

    Raises:
        KeyboardInterrupt: if it came before anything was found.
    """
    chosen = request.wanted.choose(found.values)
    if len(chosen) == 0:
        raise KeyboardInterrupt
    spent, stopped = found.num_matvecs, found.stopped
    X = torch.stack([found.locked[int(i)] for i in chosen], 1)
    unknown = skew_of(request, found, X, None, 0)
    own = Refined(X, found.values[chosen], found.estimates[chosen], False, spent, stopped, unknown)
    if stopped in ("interrupted", OUT_OF_MEMORY) or spent + len(chosen) > request.budget:
        return own

    def told(num: int) -> None:
        nonlocal spent
        spent = found.num_matvecs + num
        progress.report("eigenpairs: matvecs", spent, request.forecast(spent))

    try:
        AX = column_products(request.A, X, told)
        X, AX, values, residuals = _rayleigh_ritz(request, X, AX)
    except KeyboardInterrupt:
        interrupts.note()
        return replace(own, num_matvecs=spent, stopped="interrupted")
    apart = skew_of(request, found, X, AX, request.budget - spent)
    return Refined(X, values, residuals, True, spent + apart.num_matvecs, stopped, apart)


def result(request: Request, found: Found, proof: Verified, pairs: Refined) -> Eigenpairs:
    """Everything as data and in words; residuals are never below rounding noise."""
    unit, noise = request.unit, noise_in_span(request.A, pairs.vectors, request.seed)
    noise = noise if noise > found.noise else 0.0
    residuals = np.maximum(pairs.residuals, found.noise) + noise + pairs.skew.of_vectors
    converged = residuals <= np.maximum(request.tol * np.abs(pairs.values), 10 * found.noise)
    complete = Verified(proof.complete and bool(converged.all()), proof.copies)
    size = float(np.abs(pairs.values).max())
    notes = (*told(request.A, noise, size), *_notes(request, found, proof, pairs, converged))
    return Eigenpairs(
        eigenvalues=torch.from_numpy(pairs.values * unit),
        eigenvectors=pairs.vectors,
        residuals=torch.from_numpy(in_units(residuals, unit)),
        converged=torch.from_numpy(converged),
        num_matvecs=pairs.num_matvecs,
        certificate=_certificate(request, found, complete, pairs, residuals, noise),
        which=request.wanted.which,
        seed=request.seed,
        notes=notes,
        facts={**request.A.facts(), "rounds": len(found.rounds), "asymmetry": pairs.skew.relative},
    )


def _rayleigh_ritz(
    request: Request, X: Tensor, AX: Tensor
) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    """Ritz pairs in the span of X by the wish, their products, and residuals ‖A x - θ x‖."""
    projected = request.A.inner(X, AX)
    theta, U = torch.linalg.eigh((projected + projected.T) / 2)
    wish = Wanted(len(theta), request.wanted.which).choose(theta.cpu().numpy()).copy()
    order = torch.from_numpy(wish).to(U.device)
    theta, U = theta[order], U[:, order]
    X, AX = X @ U.to(X.dtype), AX @ U.to(X.dtype)
    R = AX - X * theta.to(X.dtype)
    return X, AX, theta.cpu().numpy(), np.array([norm(request.A, r) for r in R.unbind(1)])


def _certificate(
    request: Request,
    found: Found,
    proof: Verified,
    pairs: Refined,
    residuals: np.ndarray,
    noise: float,
) -> Certificate:
    theta = pairs.values
    if noise > 0:
        noise = noise_anywhere(request.A, noise, request.seed)
    noise += pairs.skew.anywhere
    first, near = found.rounds[0].recurrence, window(theta, found.noise) + noise
    lower, upper = -math.inf, math.inf
    if first.alpha:
        adrift = found.noise * math.sqrt(len(first.alpha)) + noise  # rounding adds up over steps
        lower = certificate.lower_bound(first, request.delta / 4) - adrift
        upper = certificate.upper_bound(first, request.delta / 4) + adrift
    if proof.complete and proof.copies:  # what is left lies inside, coupled by residuals
        slack = near + float(np.linalg.norm(residuals)) + float(np.linalg.norm(found.estimates))
        low, high = request.wanted.region(theta)
        if math.isfinite(high):
            upper = min(upper, max(float(theta.max()), high) + slack)
        if math.isfinite(low):
            lower = max(lower, min(float(theta.min()), low) - slack)
    lower, upper = -in_units(-lower, request.unit), in_units(upper, request.unit)
    near = in_units(near, request.unit)
    text = statement(
        request.wanted, proof.complete, proof.copies, near, request.delta, lower, upper
    )
    return Certificate(lower, upper, near, proof.complete, proof.copies, request.delta, text)


def _notes(
    request: Request, found: Found, proof: Verified, pairs: Refined, converged: np.ndarray
) -> list[str]:
    notes = []
    if not pairs.fresh:
        early = pairs.stopped in ("interrupted", OUT_OF_MEMORY)
        reason = pairs.stopped if early else "max_matvecs is too small"
        notes.append(f"{reason}: residuals are the recurrence's own estimates")
    if len(converged) < request.wanted.k:
        notes.append(f"only {len(converged)} of {request.wanted.k} pairs were found")
    if not converged.all():
        left = int((~converged).sum())
        notes.append(
            f"{left} of {len(converged)} pairs did not converge in {pairs.num_matvecs} matvecs; "
            "raise max_matvecs or tol"
        )
    elif not proof.complete:
        notes.append(
            "not certified: verify=True, or a larger max_matvecs or max_basis, excludes "
            "skipped eigenvalues"
        )
    crowd = _crowd(request.wanted, found.rounds[0].ritz)
    if crowd >= CROWD and request.wanted.k > 1:
        notes.append(
            f"{crowd} eigenvalues lie within a third of the outermost: there is no gap "
            "to separate a top list, and counts between thresholds are the better question"
        )
    return [*notes, *skew.told(pairs.skew)]


def _crowd(wanted: Wanted, theta: np.ndarray) -> int:
    """How many Ritz values of the first run lie within a third of the outermost wanted one."""
    if len(theta) == 0:
        return 0
    outermost = theta[wanted.choose(theta)[0]]
    return int((np.abs(theta - outermost) <= abs(outermost) / 3).sum())

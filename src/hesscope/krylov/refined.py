"""The pairs that a search has found, with residuals from it and one product that checks them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hesscope.krylov import certificate, drift, skew
from hesscope.krylov.drift import Drift
from hesscope.krylov.missed import window
from hesscope.krylov.noise import noise_anywhere, noise_in_span, told
from hesscope.krylov.pairs import (
    Pairs,
    from_products,
    rayleigh_ritz,
    rayleigh_ritz_of_rows,
)
from hesscope.krylov.rounds import Found, Request
from hesscope.krylov.search import Verified
from hesscope.krylov.skew import Skew, skew_of
from hesscope.krylov.wanted import Wanted, statement
from hesscope.operator import column_products, in_units
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
    num_matvecs: int
    stopped: str
    skew: Skew
    measured: float  # what products of the pairs are off by, where it is more than rounding
    drift: Drift | None = None  # as one product has measured it; none was left if None

    @property
    def changed(self) -> bool:
        """Whether the operator is not the one that the search has seen."""
        return self.drift is not None and self.drift.changed


def refined(request: Request, found: Found) -> Refined:
    """The wanted pairs by Rayleigh and Ritz, with the residuals that the search itself knows.

    One product checks them; if the operator has changed, each pair gets one of its own.

    Raises:
        KeyboardInterrupt: if it came before anything was found.
    """
    chosen = request.wanted.choose(found.values)
    if len(chosen) == 0:
        raise KeyboardInterrupt
    spent, stopped = found.num_matvecs, found.stopped
    if stopped in ("interrupted", OUT_OF_MEMORY):
        X = torch.stack([found.locked[int(i)] for i in chosen], 1)
        unknown = skew_of(request, found, None, len(chosen), 0)
        values, residuals = found.values[chosen], found.estimates[chosen]
        measured = _measured(request, found, X)
        return Refined(X, values, residuals, spent, stopped, unknown, measured)
    lost = np.array(found.lost)
    own = rayleigh_ritz_of_rows(found.locked, found.residuals, found.values, lost, request.wanted)
    measured = _measured(request, found, own.vectors)
    pairs, seen, spent, stopped = _checked(request, found, own, measured)
    apart = skew_of(request, found, pairs, len(chosen), request.budget - spent)
    residuals = pairs.sizes(request.A)
    if pairs is own and seen is not None:
        residuals = residuals + seen.added(request.delta)
    spent += apart.num_matvecs
    return Refined(pairs.vectors, pairs.values, residuals, spent, stopped, apart, measured, seen)


def _measured(request: Request, found: Found, X: Tensor) -> float:
    """What products with these vectors are off by, against float64, where rounding is less."""
    noise = noise_in_span(request.A, X, request.seed)
    return noise if noise > found.noise else 0.0


def _checked(
    request: Request, found: Found, own: Pairs, measured: float
) -> tuple[Pairs, Drift | None, int, str]:
    """The pairs, how far the operator has drifted, and the products spent until here.

    Where it has changed, and products are left, pairs and residuals are those of new products.
    """
    A, spent = request.A, found.num_matvecs
    if spent >= request.budget:
        return own, None, spent, found.stopped
    seen: Drift | None = None

    def told(num: int) -> None:
        nonlocal spent
        spent = found.num_matvecs + num
        progress.report("eigenpairs: matvecs", spent, request.forecast(spent))

    try:
        seen = drift.drift(A, own, found.noise, request.seed, measured)
        told(1)
        if not seen.changed or spent + len(own.values) > request.budget:
            return own, seen, spent, found.stopped
        AX = column_products(A, own.vectors, lambda num: told(1 + num))
    except KeyboardInterrupt:
        interrupts.note()
        return own, seen, spent, "interrupted"
    now = rayleigh_ritz(A, from_products(A, own.vectors, AX), request.wanted)
    return now, seen, spent, found.stopped


def result(request: Request, found: Found, proof: Verified, pairs: Refined) -> Eigenpairs:
    """Everything as data and in words; residuals are never below rounding noise."""
    unit, noise = request.unit, pairs.measured
    residuals = pairs.residuals + found.noise + noise + pairs.skew.of_vectors
    converged = residuals <= np.maximum(request.tol * np.abs(pairs.values), 10 * found.noise)
    certain = bool(converged.all()) and not pairs.changed
    complete = Verified(proof.complete and certain, proof.copies)
    size = float(np.abs(pairs.values).max())
    notes = (*told(request.A, noise, size), *_notes(request, found, proof, pairs, converged))
    return Eigenpairs(
        eigenvalues=torch.from_numpy(pairs.values * unit),
        eigenvectors=request.A.whole(pairs.vectors),
        residuals=torch.from_numpy(in_units(residuals, unit)),
        converged=torch.from_numpy(converged),
        num_matvecs=pairs.num_matvecs,
        certificate=_certificate(request, found, complete, pairs, residuals, noise),
        which=request.wanted.which,
        seed=request.seed,
        notes=notes,
        facts={**request.A.facts(), "rounds": len(found.rounds), "asymmetry": pairs.skew.relative},
    )


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
    noise += pairs.skew.anywhere + (0.0 if pairs.drift is None else pairs.drift.unexplained)
    first, near = found.rounds[0].recurrence, window(theta, found.noise) + noise
    lower, upper = -math.inf, math.inf
    if first.alpha and not pairs.changed:
        adrift = found.noise * math.sqrt(len(first.alpha)) + noise  # rounding adds up over steps
        lower = certificate.lower_bound(first, request.delta / 4) - adrift
        upper = certificate.upper_bound(first, request.delta / 4) + adrift
    if proof.complete and proof.copies:  # what is left lies inside, coupled by residuals
        coupled = np.delete(found.estimates, found.spare)  # spare pairs: by the shift, see there
        slack = near + float(np.linalg.norm(residuals)) + float(np.linalg.norm(coupled))
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
    if pairs.drift is None:
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
    size = max(found.scale, float(np.abs(pairs.values).max()))
    changes = () if pairs.drift is None else pairs.drift.told(size)
    return [*notes, *skew.told(pairs.skew), *changes]


def _crowd(wanted: Wanted, theta: np.ndarray) -> int:
    """How many Ritz values of the first run lie within a third of the outermost wanted one."""
    if len(theta) == 0:
        return 0
    outermost = theta[wanted.choose(theta)[0]]
    return int((np.abs(theta - outermost) <= abs(outermost) / 3).sum())

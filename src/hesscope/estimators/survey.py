"""One Lanczos run for everything that a first look at a spectrum wants: ends, pairs, density."""

from __future__ import annotations

import torch
from torch import Tensor

from hesscope.estimators.density import as_density, spectral_density
from hesscope.estimators.resolved import Request, Resolved, Split, request, resolved
from hesscope.krylov import drift
from hesscope.krylov.eigsh import eigsh
from hesscope.krylov.noise import told
from hesscope.krylov.pairs import Pairs, rayleigh_ritz
from hesscope.krylov.wanted import Wanted, statement
from hesscope.operator import (
    OperatorLike,
    SymmetricOperator,
    at_order_one,
    in_units,
    symmetric_operator,
)
from hesscope.results.density import SpectralDensity
from hesscope.results.spectrum import Certificate, Eigenpairs
from hesscope.system import progress

TOLERANCE = 1e-2  # relative residual at which a pair counts as converged


def survey(
    A: OperatorLike, max_matvecs: int, k: int, *, seed: int | None = None, delta: float = 1e-3
) -> tuple[SpectralDensity, Eigenpairs]:
    """The spectral density and up to k eigenpairs of both ends, from one Lanczos run.

    The run is that of `spectral_density`, which knows the residuals of its outermost Ritz vectors;
    one of the `max_matvecs` checks them. The list, at most a third as long as there are products,
    is certified complete where the second start of the density has verified the outliers up to it.

    Raises:
        ValueError: as `spectral_density`.
        RuntimeError: as `spectral_density`.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.linspace(-1, 3, 50).double()))
    >>> density, pairs = survey(A, 30, 2, seed=0)
    >>> bool((pairs.eigenvalues - torch.tensor([3.0, -1.0])).abs().max() < 1e-3)
    True
    >>> density.num_matvecs + pairs.num_matvecs
    30
    """
    A = symmetric_operator(A)
    seed = A.drawn_seed(seed)
    k = min(k, A.n, max(1, max_matvecs // 3))
    if max_matvecs - k >= A.n:
        pairs = eigsh(A, k, "BE" if A.n > 1 else "LA", seed=seed, delta=delta)
        return spectral_density(A, max(A.n, 4), seed=seed, delta=delta), pairs

    def answer(B: SymmetricOperator, unit: float) -> tuple[SpectralDensity, Eigenpairs]:
        asked = request(B, max_matvecs - 1, seed=seed, delta=delta, unit=unit)
        found = resolved(asked)
        density = as_density(asked, found)
        return density, _checked(asked, _outermost(asked, found, k), density, found.split)

    return at_order_one(A, answer)


def _outermost(asked: Request, found: Resolved, k: int) -> Pairs:
    """The k outermost Ritz pairs of the run; the most wanted first."""
    run, theta = found.run, found.split.theta
    wanted = Wanted(min(k, len(theta)), "BE")
    chosen = wanted.choose(theta)
    S = found.split.S[:, chosen]
    R, lost = run.residual_vectors(theta[chosen], S)
    return rayleigh_ritz(asked.A, Pairs(run.vectors(S), theta[chosen], R, lost), wanted)


def _checked(asked: Request, found: Pairs, density: SpectralDensity, split: Split) -> Eigenpairs:
    """The pairs with residuals that hold rounding, after one product of a combination of them."""
    A = asked.A
    seen = drift.drift(A, found, split.rounded, asked.seed, split.measured)
    progress.report("residuals: matvecs", 1, 1)
    residuals = found.sizes(A) + split.rounded + split.measured + seen.added(asked.delta)
    values = torch.from_numpy(found.values) * asked.unit
    errors = torch.from_numpy(in_units(residuals, asked.unit))
    least = 10 * split.rounded * asked.unit
    converged = errors <= torch.clamp(TOLERANCE * values.abs(), min=least)
    size = density.size / asked.unit
    return Eigenpairs(
        eigenvalues=values,
        eigenvectors=found.vectors,
        residuals=errors,
        converged=converged,
        num_matvecs=1,
        certificate=_certificate(density, values, bool(converged.all()) and not seen.changed),
        which="BE",
        seed=asked.seed,
        notes=told(A, split.measured, size) + seen.told(size),
        facts=density.facts,
    )


def _certificate(density: SpectralDensity, values: Tensor, converged: bool) -> Certificate:
    """What the density's second start says about the list, copies included."""
    middle = float(values.median())
    top, bottom = values[values >= middle], values[values < middle]
    verified = bool((top > density.cut_high).all()) and bool((bottom < density.cut_low).all())
    complete = verified and converged
    text = statement(
        Wanted(len(values), "BE"),
        complete,
        complete,
        density.rounding,
        density.delta,
        density.lower,
        density.upper,
    )
    return Certificate(
        density.lower, density.upper, density.rounding, complete, complete, density.delta, text
    )

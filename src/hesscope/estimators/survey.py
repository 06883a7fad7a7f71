"""One Lanczos run for everything that a first look at a spectrum wants: ends, pairs, density."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hesscope.estimators.density import as_density, spectral_density
from hesscope.estimators.resolved import Request, Split, request, resolved
from hesscope.krylov.eigsh import eigsh
from hesscope.krylov.noise import told
from hesscope.krylov.wanted import Wanted, statement
from hesscope.operator import (
    OperatorLike,
    SymmetricOperator,
    at_order_one,
    column_products,
    in_units,
    norm,
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

    The run is that of `spectral_density`; its outermost Ritz vectors get fresh products for their
    residuals, k of the `max_matvecs` (a third of them at most). The list is certified complete
    where the second start of the density has verified the outliers up to it.

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
        asked = request(B, max_matvecs - k, seed=seed, delta=delta, unit=unit)
        found = resolved(asked)
        density = as_density(asked, found)
        chosen = Wanted(min(k, len(found.split.theta)), "BE").choose(found.split.theta)
        X = found.run.vectors(found.split.S[:, chosen])
        return density, _with_fresh_residuals(asked, X, density, found.split)

    return at_order_one(A, answer)


def _with_fresh_residuals(
    asked: Request, X: Tensor, density: SpectralDensity, split: Split
) -> Eigenpairs:
    """Rayleigh quotients and ‖A x - θ x‖ from new products; the most wanted pair first."""
    A, num = asked.A, X.shape[1]
    AX = column_products(A, X, lambda i: progress.report("residuals: matvecs", i, num))
    values = A.inner(X, AX).diagonal()
    order = torch.from_numpy(Wanted(len(values), "BE").choose(values.cpu().numpy()).copy())
    order = order.to(values.device)
    X, AX, values = X[:, order], AX[:, order], values[order]
    R = AX - X * values.to(X.dtype)
    residuals = np.maximum([norm(A, r) for r in R.unbind(1)], split.rounded) + split.measured
    values = values.cpu() * asked.unit
    errors = torch.from_numpy(in_units(residuals, asked.unit))
    least = 10 * split.rounded * asked.unit
    converged = errors <= torch.clamp(TOLERANCE * values.abs(), min=least)
    return Eigenpairs(
        eigenvalues=values,
        eigenvectors=X,
        residuals=errors,
        converged=converged,
        num_matvecs=num,
        certificate=_certificate(density, values, bool(converged.all())),
        which="BE",
        seed=asked.seed,
        notes=told(A, split.measured, density.size / asked.unit),
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

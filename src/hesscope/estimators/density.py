"""The spectral density of an operator: one Lanczos run, its outliers taken out exactly."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import numpy as np
import torch

from hesscope import rounding
from hesscope.dense.spectrum import spectrum
from hesscope.estimators.resolved import Request, Resolved, Split, Verified, request, resolved
from hesscope.krylov import certificate
from hesscope.krylov.given import refuse_other_size
from hesscope.krylov.lanczos import Lanczos
from hesscope.operator import (
    OperatorLike,
    PlaceLike,
    SymmetricOperator,
    at_order_one,
    in_units,
    placed,
    symmetric_operator,
)
from hesscope.results.density import SpectralDensity
from hesscope.results.of_spectrum import exact_density
from hesscope.results.spectrum import Eigenpairs
from hesscope.system.contexts import public
from hesscope.system.memory import human


@public
def spectral_density(
    A: OperatorLike,
    max_matvecs: int = 100,
    *,
    deflate: Literal["auto", "none"] | Eigenpairs = "auto",
    verify: bool = True,
    seed: int | None = None,
    delta: float = 1e-3,
    basis: PlaceLike = "auto",
) -> SpectralDensity:
    """The density of all n eigenvalues, with rigorous counts, from `max_matvecs` products.

    Lanczos with full reorthogonalisation from a Gaussian start. Ritz values at both ends that have
    converged are eigenvalues: they get weight 1/n each instead of the random mass that they have
    in the start, and the other nodes share the rest, which takes the largest error out of
    stochastic Lanczos quadrature at no cost. With `verify` an eighth of the products goes to a
    second start in the complement of these outliers, which must certify that no copy and no other
    eigenvalue lies out there; only then do they count exactly in `count`, `cdf` and `band`.

    Args:
        A: the operator, or a matrix as for `as_operator`.
        max_matvecs: products to spend in all. From n on, the whole spectrum is computed instead.
        deflate: "auto" as described; "none" for plain quadrature; or the result of `eigsh`, whose
            pairs are taken out before the run, after one of the products has checked them.
        verify: spend products on verifying outliers.
        seed: of the random starts; None draws a fresh one, which the result keeps. With a seed
            of your own, "whatever the operator" leaves out those built from what it draws.
        delta: probability that the verification of outliers, or the printed range, is wrong.
        basis: where vectors are kept, as of `eigsh`; "auto" takes the first place that holds two
            for each product.

    Returns:
        The density. Counts are off by about √(2 r (n - r)/n) for r eigenvalues out of n, which no
        number of steps changes, plus what the steps leave open. Memory, of whatever `basis` says: a
        vector per product.
        Interrupted from the keyboard, it warns and returns what the steps until then give.

    Raises:
        ValueError: if max_matvecs is less than 4, delta or the pairs do not fit, the pairs are
            those of other parameters, `basis` is no place, or has no room.
        RuntimeError: if a product is not finite, or A is not symmetric.

    Source: Golub and Meurant 2010; Chen, Trogdon and Ubaru 2021 for undeflated quadrature.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.linspace(-1, 1, 400).double()))
    >>> d = hs.spectral_density(A, max_matvecs=40, seed=0)
    >>> 200 in d.negative(), abs(float(d.nodes @ d.weights)) < 0.1
    (True, True)
    """
    A = symmetric_operator(A)
    _check(A, max_matvecs, deflate, delta)
    seed = A.drawn_seed(seed)
    if max_matvecs >= A.n:
        notes = ("exact: as many products as eigenvalues were allowed for",)
        return exact_density(spectrum(A, check=False), notes, delta=delta, seed=seed)
    A = A.in_pieces()
    A = placed(A, basis, _need(A, max_matvecs))
    _refuse_too_large(A, max_matvecs)

    def answer(B: SymmetricOperator, unit: float) -> SpectralDensity:
        asked = request(
            B,
            max_matvecs,
            pairs=deflate if isinstance(deflate, Eigenpairs) else None,
            seed=seed,
            delta=delta,
            split=deflate != "none",
            verify=verify and deflate != "none",
            unit=unit,
        )
        found = resolved(asked)
        if found.interrupted:
            warnings.warn("interrupted: returning the density found so far", stacklevel=6)
        return as_density(asked, found)

    return at_order_one(A, answer)


def as_density(asked: Request, found: Resolved) -> SpectralDensity:
    """Atoms with weights, and the run that the intervals rest on."""
    n, run, split, proof = asked.A.n, found.run, found.split, found.verified
    unit = asked.unit
    k = _single(asked, split, proof)
    bulk = np.setdiff1d(np.arange(len(split.theta)), k)
    num = len(asked.locked) + len(k)
    mass = split.mass[bulk] / max(split.mass[bulk].sum(), rounding.POSITIVE)
    nodes = np.concatenate([asked.values, split.theta[k], split.theta[bulk]])
    weights = np.concatenate([np.full(num, 1 / n), mass * (n - num) / n])
    order, outliers = np.argsort(nodes), np.concatenate([asked.values, split.theta[k]])
    descending = np.argsort(-outliers)
    locked = np.arange(len(outliers)) < len(asked.values)
    errors = np.concatenate([asked.errors, split.errors[k]])
    lower, upper = _ends(asked, run)
    return SpectralDensity(
        n=n,
        nodes=torch.from_numpy(nodes[order] * unit),
        weights=torch.from_numpy(weights[order]),
        outliers=torch.from_numpy(outliers[descending] * unit),
        errors=torch.from_numpy(in_units(errors[descending], unit)),
        locked=torch.from_numpy(locked[descending]),
        alpha=torch.tensor(run.alpha, dtype=torch.float64) * unit,
        beta=torch.tensor(run.beta, dtype=torch.float64) * unit,
        cut_low=proof.cut_low * unit,
        cut_high=proof.cut_high * unit,
        lower=0.0 - in_units(-lower + split.adrift, unit),
        upper=in_units(upper + split.adrift, unit),
        rounding=in_units(split.adrift, unit),
        num_matvecs=found.num_matvecs,
        delta=asked.delta,
        seed=asked.seed,
        notes=found.notes,
        facts={**asked.A.facts(), "steps": run.num_steps},
    )


def _single(asked: Request, split: Split, proof: Verified) -> np.ndarray:
    """Which Ritz values are outliers: split off, and not found again by the second start.

    A run that has used up its space has seen all values, but not how often they occur: then
    only those that were verified.
    """
    k = split.indices
    theta, errors = split.theta[k], split.errors[k]
    beyond = (theta > proof.cut_high) | (theta < proof.cut_low)
    seen, how_exactly = np.array(proof.seen).reshape(-1, 2).T
    again = np.abs(theta[:, None] - seen) <= errors[:, None] + how_exactly
    if len(k) == len(split.theta) and len(asked.locked) + len(k) < asked.A.n:
        return k[beyond]
    return k[beyond | ~again.any(1)]


def _ends(asked: Request, run: Lanczos) -> tuple[float, float]:
    """No eigenvalue lies below and none above, except with probability delta."""
    low = certificate.lower_bound(run, asked.delta / 2)
    high = certificate.upper_bound(run, asked.delta / 2)
    lower = -_beyond(-low, -asked.values, asked.errors)
    return lower, _beyond(high, asked.values, asked.errors)


def _beyond(bound: float, values: np.ndarray, errors: np.ndarray) -> float:
    """An upper end of the operator from one of the complement and from what was taken out of it.

    With x0 above both, x0 - A is positive from x0 + Σ r²/(x0 - d) on (Haynsworth's formula).
    """
    end = max(bound, float((values + errors).max(initial=-math.inf)))
    return end + float((errors**2 / np.maximum(end - values, rounding.POSITIVE)).sum())


def _check(A: SymmetricOperator, max_matvecs: int, deflate: str | Eigenpairs, delta: float) -> None:
    """Can this be asked?

    Raises:
        ValueError: if not.
    """
    if max_matvecs < 4:
        msg = f"max_matvecs={max_matvecs} is too few for a density; the usual is 100."
        raise ValueError(msg)
    if not 0 < delta < 0.05:
        msg = f"delta={delta} must lie between 0 and 0.05, so that 95 % is left; the usual is 1e-3."
        raise ValueError(msg)
    if isinstance(deflate, Eigenpairs):
        refuse_other_size(A, deflate)
    elif deflate not in ("auto", "none"):
        msg = f"deflate={deflate!r}; give 'auto', 'none' or the result of hs.eigsh."
        raise ValueError(msg)


def _need(A: SymmetricOperator, max_matvecs: int) -> int:
    """Bytes of a vector per product, and of as many again for outliers that are locked."""
    return 2 * max_matvecs * A.num_local * A.dtype.itemsize


def _refuse_too_large(A: SymmetricOperator, max_matvecs: int) -> None:
    """Is there room for the vectors of so many products?

    Raises:
        ValueError: with what is needed, what is free, and how many products would fit.
    """
    need, free = _need(A, max_matvecs), A.free_bytes()
    if need > free:
        msg = (
            f"{max_matvecs} products of n={A.n} keep up to {human(need)} of vectors, {human(free)} "
            f"are free; max_matvecs={max(4, int(free // _need(A, 1)))} would fit."
        )
        raise ValueError(msg)

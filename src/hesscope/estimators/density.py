"""The spectral density of an operator: one Lanczos run, its outliers taken out exactly."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from hesscope import rounding
from hesscope.dense.spectrum import spectrum
from hesscope.krylov import certificate
from hesscope.krylov.basis import Basis
from hesscope.krylov.lanczos import Lanczos, independent_seed, random_start
from hesscope.operator import OperatorLike, SymmetricOperator, symmetric_operator
from hesscope.results.density import SpectralDensity
from hesscope.results.spectrum import Eigenpairs
from hesscope.system import interrupts, progress
from hesscope.system.memory import available_bytes, human

RESOLVED = 1e-2  # residual relative to |θ| at which a Ritz value counts as an eigenvalue
MOST_MASS = 30.0  # of a single eigenvalue, in units of 1/n: χ² with one degree exceeds it at 4e-8
VERIFYING = 8  # one of so many products goes to the second start
CLEAN_CUT = 0.01  # of 1/n: the mass that an eigenvalue at a cut could have


def spectral_density(
    A: OperatorLike,
    max_matvecs: int = 100,
    *,
    deflate: Literal["auto", "none"] | Eigenpairs = "auto",
    verify: bool = True,
    seed: int = 0,
    delta: float = 1e-3,
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
            pairs are taken out before the run.
        verify: spend products on verifying outliers.
        seed: of the random starts.
        delta: probability that the verification of outliers, or the printed range, is wrong.

    Returns:
        The density. Counts are off by about √(2 r (n - r)/n) for r eigenvalues out of n, which no
        number of steps changes, plus what the steps leave open. Memory: a vector per product.
        Interrupted from the keyboard, it warns and returns what the steps until then give.

    Raises:
        ValueError: if max_matvecs is less than 4, delta or the pairs do not fit, or memory is
            short.
        RuntimeError: if a product is not finite, or A is not symmetric.

    Source: Golub and Meurant 2010; Chen, Trogdon and Ubaru 2021 for undeflated quadrature.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.linspace(-1, 1, 400).double()))
    >>> d = hs.spectral_density(A, max_matvecs=40)
    >>> 200 in d.negative(), abs(float(d.nodes @ d.weights)) < 0.1
    (True, True)
    """
    A = symmetric_operator(A)
    _check(A, max_matvecs, deflate, delta)
    if max_matvecs >= A.n:
        return _exact(A, seed, delta)
    _refuse_too_large(A, max_matvecs)
    work = Measurement(A, max_matvecs, verify and deflate != "none", seed, delta)
    if isinstance(deflate, Eigenpairs):
        work.lock(deflate)
    work.measure(split=deflate != "none")
    if work.interrupted:
        warnings.warn("interrupted: returning the density found so far", stacklevel=2)
    return work.result()


class Measurement:
    """One density: the locked pairs, the run, the outliers split off, and their verification."""

    def __init__(
        self, A: SymmetricOperator, budget: int, verify: bool, seed: int, delta: float
    ) -> None:
        self.A, self.budget, self.verify, self.seed, self.delta = A, budget, verify, seed, delta
        self.locked = Basis(A)
        self.values, self.errors = np.zeros(0), np.zeros(0)
        self.spent = self.num_verifying = 0
        self.cut_low, self.cut_high = -math.inf, math.inf
        self.copied = np.zeros((2, 0))  # what the second start has found again, and how exactly
        self.starts = seed
        self.notes: list[str] = []
        self.interrupted = False

    def lock(self, pairs: Eigenpairs) -> None:
        """Takes given eigenpairs out before the run; they cost nothing again.

        Their errors know the start that they were found from, so it must not be used again.
        """
        self.starts = independent_seed(self.seed, pairs.eigenvectors)
        self.locked.extend(pairs.eigenvectors)
        self.values = pairs.eigenvalues.cpu().double().numpy()
        self.errors = pairs.residuals.cpu().double().numpy()

    def measure(self, *, split: bool) -> None:
        """The run, the outliers in it, the second start, and then the products that are left."""
        self.run = Lanczos(self.A, random_start(self.A, self.locked, self.starts), self.locked)
        verifying = self.budget // VERIFYING if self.verify else 0
        self._grow(self.run, self.budget - verifying)
        self._split(split)
        if verifying and self.split.num and not self.interrupted:
            self._verify(verifying)
        if self.spent < self.budget and not self.interrupted:
            cuts = self.cut_low, self.cut_high
            self._grow(self.run, self.budget - self.spent)
            self._split(split, at_least=cuts)

    def _grow(self, run: Lanczos, steps: int) -> None:
        try:
            for _ in range(steps):
                if run.exhausted:
                    return
                run.step()
                self.spent += 1
                progress.report("spectral density: matvecs", self.spent, self.budget)
        except KeyboardInterrupt:
            interrupts.note()
            if self.run.num_steps == 0:
                raise
            self.interrupted = True
            self.notes.append("interrupted: fewer steps than asked for")

    @property
    def noise(self) -> float:
        """What rounding, and products that are not quite symmetric, leave in a residual."""
        size = max(self.run.scale, float(np.abs(self.values).max(initial=0.0)))
        return rounding.product_noise(self.A.dtype, size, self.run.asymmetry)

    def _split(self, split: bool, at_least: tuple[float, float] | None = None) -> None:
        theta, S, residuals = self.run.ritz()
        errors = residuals + self.noise
        self.mass = S[0] ** 2
        self.theta, self.S, self.ritz_errors = theta, S, errors
        rest = self.A.n - len(self.locked)
        self.split = _outliers(theta, errors, self.mass * rest) if split else _Split(0, 0)
        if at_least is not None:  # what has been verified stays split
            low, high = at_least
            self.split = _Split(
                max(self.split.low, int((theta < low).sum())),
                max(self.split.high, int((theta > high).sum())),
            )

    def _verify(self, steps: int) -> None:
        """Certifies from a second start that nothing else lies beyond the cuts."""
        found = self.locked.copy()
        found.extend(self.run.vectors(self.S[:, self.split.indices(len(self.theta))]))
        second = Lanczos(
            self.A,
            random_start(self.A, found, self.starts + 1),
            found,
            known_scale=self.run.scale,
        )
        self._grow(second, steps)
        if second.num_steps == 0:
            return
        bounds = (
            certificate.lower_bound(second, self.delta / 2) - self.noise,
            certificate.upper_bound(second, self.delta / 2) + self.noise,
        )
        self._note_copies(second)
        self.cut_low = -self._cut(-self.theta[::-1], self.ritz_errors[::-1], -bounds[0], low=True)
        self.cut_high = self._cut(self.theta, self.ritz_errors, bounds[1], low=False)

    def _note_copies(self, second: Lanczos) -> None:
        """A Ritz value is a proof: there the complement has an eigenvalue at least as far out."""
        seen, _, residuals = second.ritz()
        resolved = residuals <= RESOLVED * np.abs(seen)
        self.copied = np.stack([seen[resolved], residuals[resolved] + self.noise])
        m = len(self.theta)
        inner = self.theta[self.split.low : m - self.split.high]
        for name, farthest, edge in (
            ("below", -seen[0], -inner.min(initial=0.0)),
            ("above", seen[-1], inner.max(initial=0.0)),
        ):
            outermost = self.theta[-1] if name == "above" else -self.theta[0]
            if farthest > edge + self.noise + 0.05 * max(outermost - edge, 0.0):
                sign = 1 if name == "above" else -1
                self.notes.append(
                    f"a second start finds eigenvalues {name} {sign * farthest:.6g} that the run "
                    "has not resolved (copies?); deflate=hs.eigsh(A, k) takes them out"
                )

    def _cut(self, theta: np.ndarray, errors: np.ndarray, bound: float, *, low: bool) -> float:
        """The innermost place in a gap above `bound` that no eigenvalue's mass can blur.

        Written for the upper end: `theta` ascends, and the outliers are the last ones. By
        Haynsworth's formula those taken out below x raise the others by Σ r²/(x - θ) at most.
        """
        num = self.split.low if low else self.split.high
        opposite = self.split.num - num
        for j in range(num, 0, -1):
            inner, outer = len(theta) - j - 1, len(theta) - j
            if inner < 0:
                return math.inf
            x = (theta[inner] + theta[outer]) / 2
            below = np.r_[0:opposite, len(theta) - num : outer]
            shift = float(
                (errors[below] ** 2 / np.maximum(x - theta[below], rounding.POSITIVE)).sum()
            )
            clear = theta[outer] - float(errors[outer:].sum()) > x > bound + shift
            where = np.array([-x if low else x])
            mass = math.exp(-min(float(certificate.log_christoffel(self.run, where)[0]), 700.0))
            if clear and mass * self.A.n <= CLEAN_CUT:
                return float(x)
        return math.inf

    def _single(self) -> np.ndarray:
        """Which Ritz values are outliers: split off, and not found again by the second start.

        A run that has used up its space has seen all values, but not how often they occur: then
        only those that were verified.
        """
        k = self.split.indices(len(self.theta))
        theta, errors = self.theta[k], self.ritz_errors[k]
        verified = (theta > self.cut_high) | (theta < self.cut_low)
        again = np.abs(theta[:, None] - self.copied[0]) <= errors[:, None] + self.copied[1]
        if len(k) == len(self.theta) and len(self.locked) + len(k) < self.A.n:
            return k[verified]
        return k[verified | ~again.any(1)]

    def result(self) -> SpectralDensity:
        """Atoms with weights, and the run that the intervals rest on."""
        n, run, k = self.A.n, self.run, self._single()
        bulk = np.setdiff1d(np.arange(len(self.theta)), k)
        single = len(self.locked) + len(k)
        mass = self.mass[bulk] / max(self.mass[bulk].sum(), rounding.POSITIVE)
        nodes = np.concatenate([self.values, self.theta[k], self.theta[bulk]])
        weights = np.concatenate([np.full(single, 1 / n), mass * (n - single) / n])
        order, outliers = np.argsort(nodes), np.concatenate([self.values, self.theta[k]])
        descending = np.argsort(-outliers)
        locked = np.arange(len(outliers)) < len(self.values)
        errors = np.concatenate([self.errors, self.ritz_errors[k]])
        adrift = self.noise * math.sqrt(len(run.alpha))
        low_end = _beyond(-certificate.lower_bound(run, self.delta / 2), -self.values, self.errors)
        high_end = _beyond(certificate.upper_bound(run, self.delta / 2), self.values, self.errors)
        return SpectralDensity(
            n=n,
            nodes=torch.from_numpy(nodes[order]),
            weights=torch.from_numpy(weights[order]),
            outliers=torch.from_numpy(outliers[descending]),
            errors=torch.from_numpy(errors[descending]),
            locked=torch.from_numpy(locked[descending]),
            alpha=torch.tensor(run.alpha, dtype=torch.float64),
            beta=torch.tensor(run.beta, dtype=torch.float64),
            cut_low=self.cut_low,
            cut_high=self.cut_high,
            lower=0.0 - (low_end + adrift),
            upper=high_end + adrift,
            rounding=adrift,
            num_matvecs=self.spent,
            delta=self.delta,
            seed=self.seed,
            notes=tuple(self.notes),
            facts={**self.A.facts(), "steps": run.num_steps},
        )


@dataclass(frozen=True)
class _Split:
    """How many Ritz values at each end are single, resolved eigenvalues."""

    low: int
    high: int

    @property
    def num(self) -> int:
        return self.low + self.high

    def indices(self, m: int) -> np.ndarray:
        """Their indices among m ascending Ritz values."""
        return np.concatenate([np.arange(self.low), np.arange(m - self.high, m)])


def _outliers(theta: np.ndarray, errors: np.ndarray, mass: np.ndarray) -> _Split:
    """Converged Ritz values from both ends inwards whose mass is not that of many eigenvectors."""
    single = (errors <= RESOLVED * np.abs(theta)) & (mass <= MOST_MASS)
    low = int(np.argmin(np.append(single & (theta < 0), False)))
    high = int(np.argmin(np.append((single & (theta > 0))[::-1], False)))
    return _Split(low, high)


def _beyond(bound: float, values: np.ndarray, errors: np.ndarray) -> float:
    """An upper end of the operator from one of the complement and from what was taken out of it.

    With x0 above both, x0 - A is positive from x0 + Σ r²/(x0 - d) on (Haynsworth's formula).
    """
    end = max(bound, float((values + errors).max(initial=-math.inf)))
    return end + float((errors**2 / np.maximum(end - values, rounding.POSITIVE)).sum())


def _exact(A: SymmetricOperator, seed: int, delta: float) -> SpectralDensity:
    """All n eigenvalues as outliers with their rounding error."""
    exact = spectrum(A, check=False)
    values = exact.eigenvalues
    return SpectralDensity(
        n=A.n,
        nodes=values,
        weights=torch.full_like(values, 1 / A.n),
        outliers=values.flip(0),
        errors=torch.full_like(values, exact.error),
        locked=torch.zeros(A.n, dtype=torch.bool),
        alpha=values.new_zeros(0),
        beta=values.new_zeros(0),
        cut_low=math.inf,
        cut_high=math.inf,
        lower=float(values[0]) - exact.error,
        upper=float(values[-1]) + exact.error,
        rounding=exact.error,
        num_matvecs=exact.num_matvecs,
        delta=delta,
        seed=seed,
        notes=("exact: as many products as eigenvalues were allowed for",),
        facts=exact.facts,
    )


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
        if deflate.eigenvectors.shape[0] != A.n:
            msg = f"the eigenpairs have {deflate.eigenvectors.shape[0]} entries, A has n={A.n}."
            raise ValueError(msg)
    elif deflate not in ("auto", "none"):
        msg = f"deflate={deflate!r}; give 'auto', 'none' or the result of hs.eigsh."
        raise ValueError(msg)


def _refuse_too_large(A: SymmetricOperator, max_matvecs: int) -> None:
    """A vector per product, and as many again for outliers that are locked.

    Raises:
        ValueError: with what is needed, what is free, and how many products would fit.
    """
    row = A.n * A.dtype.itemsize
    need, free = 2 * max_matvecs * row, available_bytes(A.device)
    if need > free:
        msg = (
            f"{max_matvecs} products of n={A.n} keep up to {human(need)} of vectors, {human(free)} "
            f"are free; max_matvecs={max(4, int(free // (2 * row)))} would fit."
        )
        raise ValueError(msg)

"""The stages of a density: a run, its outliers split off, a second start that verifies them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from hesscope import probes, rounding
from hesscope.krylov import certificate
from hesscope.krylov.basis import Basis
from hesscope.krylov.given import checked
from hesscope.krylov.lanczos import Lanczos, at_a_time, independent_seed, random_start
from hesscope.krylov.noise import noise_of_run, told
from hesscope.operator import SymmetricOperator
from hesscope.results.spectrum import Eigenpairs
from hesscope.system import interrupts, progress

RESOLVED = 1e-2  # residual relative to |θ| at which a Ritz value counts as an eigenvalue
MOST_MASS = 30.0  # of a single eigenvalue, in units of 1/n: χ² with one degree exceeds it at 4e-8
VERIFYING = 8  # one of so many products goes to the second start
CLEAN_CUT = 0.01  # of 1/n: the mass that an eigenvalue at a cut could have


@dataclass(frozen=True)
class Request:
    """Whose density, from how many products, and with what taken out before the run."""

    A: SymmetricOperator
    budget: int
    delta: float
    seed: int
    locked: Basis  # empty, or the vectors of given pairs
    values: np.ndarray
    errors: np.ndarray
    first_seed: int  # of the run and of the second start, each with a key of its own
    split: bool = True  # whether outliers are taken out of the picture
    verify: bool = True  # whether a second start verifies them
    spent: int = 0  # products on the check of given pairs
    unit: float = 1.0  # in which results are given: A is that of the user over it

    def start_key(self, run: int) -> int:
        """The seed of the start of the run, 0, or of the second start, 1."""
        return probes.key(self.first_seed, "start of a density", run)


@dataclass(frozen=True)
class Split:
    """Ritz values, their errors and masses, and how many at either end are single eigenvalues."""

    theta: np.ndarray  # (m,) ascending
    S: np.ndarray  # (m, m), the Ritz vectors in the basis of the run
    errors: np.ndarray  # (m,) residuals and noise
    rounded: float  # what rounding leaves in a product
    measured: float  # the error of products against float64, where that is more; else 0
    low: int
    high: int

    @property
    def noise(self) -> float:
        """What is left in every residual."""
        return max(self.rounded, self.measured)

    @property
    def adrift(self) -> float:
        """What that does to bounds: rounding adds up over the steps, a measured error has."""
        return max(self.rounded * math.sqrt(len(self.theta)), self.measured)

    @property
    def num(self) -> int:
        """How many are split off."""
        return self.low + self.high

    @property
    def indices(self) -> np.ndarray:
        """Which ones."""
        m = len(self.theta)
        return np.concatenate([np.arange(self.low), np.arange(m - self.high, m)])

    @property
    def mass(self) -> np.ndarray:
        """Of each Ritz value in the start, (m,)."""
        mass: np.ndarray = self.S[0] ** 2
        return mass


@dataclass(frozen=True)
class Verified:
    """What a second start has proven: beyond the cuts lie the outliers of the run and no others."""

    cut_low: float = -math.inf
    cut_high: float = math.inf
    seen: tuple[tuple[float, float], ...] = ()  # eigenvalues that it has found, and their errors
    notes: tuple[str, ...] = ()
    num_matvecs: int = 0
    interrupted: bool = False
    measured: float = 0.0  # as of the split


@dataclass(frozen=True)
class Resolved:
    """All stages: the run with its vectors, what is split off and verified, and the cost."""

    run: Lanczos
    split: Split
    verified: Verified
    num_matvecs: int
    interrupted: bool
    notes: tuple[str, ...]


def request(
    A: SymmetricOperator,
    budget: int,
    *,
    pairs: Eigenpairs | None = None,
    seed: int = 0,
    delta: float = 1e-3,
    split: bool = True,
    verify: bool = True,
    unit: float = 1.0,
) -> Request:
    """A request with given pairs taken out before the run, after one product has checked them.

    Their errors know the start that they were found from, so it must not be used again.

    Raises:
        ValueError: if the pairs are those of another operator.
    """
    locked, none = Basis(A), np.zeros(0)
    if pairs is None:
        return Request(A, budget, delta, seed, locked, none, none, seed, split, verify, unit=unit)
    given = checked(A, pairs, seed, unit)
    locked.extend(given.vectors)
    errors = given.residuals + 2 * given.misfit
    first_seed = independent_seed(seed, pairs.eigenvectors)
    spent = given.num_matvecs
    return Request(
        A, budget, delta, seed, locked, given.values, errors, first_seed, split, verify, spent, unit
    )


def resolved(asked: Request) -> Resolved:
    """The run, the outliers in it, the second start, and then the products that are left.

    Raises:
        KeyboardInterrupt: if it came before the first step.
    """
    run = Lanczos(asked.A, random_start(asked.A, asked.locked, asked.start_key(0)), asked.locked)
    verifying = asked.budget // VERIFYING if asked.verify else 0
    steps, interrupted = _grow(asked, run, asked.budget - verifying - asked.spent, asked.spent)
    spent = asked.spent + steps
    if interrupted and run.num_steps == 0:
        raise KeyboardInterrupt
    notes = _told(interrupted)
    split = split_off(asked, run)
    proof = Verified(measured=split.measured)
    if verifying and split.num and not interrupted:
        proof = verified(asked, run, split, verifying, spent)
        spent, interrupted = spent + proof.num_matvecs, proof.interrupted
        notes += proof.notes
    if spent < asked.budget and not interrupted:
        more, interrupted = _grow(asked, run, asked.budget - spent, spent)
        spent, notes = spent + more, notes + _told(interrupted)
        split = split_off(asked, run, proof)
    notes = told(asked.A, split.measured, run.scale) + notes
    return Resolved(run, split, proof, spent, interrupted, notes)


def split_off(asked: Request, run: Lanczos, proof: Verified | None = None) -> Split:
    """The outliers of a run as it is now; what was verified before stays split."""
    theta, S, residuals = run.ritz()
    size = max(run.scale, float(np.abs(asked.values).max(initial=0.0)))
    rounded = asked.A.product_noise(size, run.asymmetry)
    measured = noise_of_run(run, S, asked.seed) if proof is None else proof.measured
    measured = measured if measured > rounded else 0.0
    errors = residuals + max(rounded, measured) + rounding.of_tridiagonal(rounded)
    low = high = 0
    if asked.split:
        low, high = _outliers(theta, errors, S[0] ** 2 * (asked.A.n - len(asked.locked)))
    if proof is not None:
        low = max(low, int((theta < proof.cut_low).sum()))
        high = max(high, int((theta > proof.cut_high).sum()))
    return Split(theta, S, errors, rounded, measured, low, high)


def verified(asked: Request, run: Lanczos, split: Split, steps: int, before: int) -> Verified:
    """Certifies from a second start that nothing else lies beyond the cuts."""
    found = asked.locked.copy()
    for some in at_a_time(split.indices):
        found.extend(run.vectors(split.S[:, some]))
    start = random_start(asked.A, found, asked.start_key(1))
    second = Lanczos(asked.A, start, found, known_scale=run.scale)
    spent, interrupted = _grow(asked, second, steps, before)
    notes = _told(interrupted)
    if second.num_steps == 0:
        return Verified(
            notes=notes,
            num_matvecs=spent,
            interrupted=interrupted,
            measured=split.measured,
        )
    lower = certificate.lower_bound(second, asked.delta / 2) - split.noise
    upper = certificate.upper_bound(second, asked.delta / 2) + split.noise
    seen, _, residuals = second.ritz()
    exact = residuals <= RESOLVED * np.abs(seen)
    return Verified(
        cut_low=-_cut(run, _mirrored(split), -lower, sign=-1),
        cut_high=_cut(run, split, upper, sign=1),
        seen=tuple(zip(seen[exact], residuals[exact] + split.noise, strict=True)),
        notes=notes + _copies(split, seen, asked.unit),
        num_matvecs=spent,
        interrupted=interrupted,
        measured=split.measured,
    )


def _grow(asked: Request, run: Lanczos, steps: int, before: int) -> tuple[int, bool]:
    """So many steps, or until the space is used up; their number, and whether interrupted."""
    done = 0
    try:
        while done < steps and not run.exhausted:
            run.step()
            done += 1
            progress.report("spectral density: matvecs", before + done, asked.budget)
    except KeyboardInterrupt:
        interrupts.note()
        return done, True
    return done, False


def _told(interrupted: bool) -> tuple[str, ...]:
    return ("interrupted: fewer steps than asked for",) if interrupted else ()


def _outliers(theta: np.ndarray, errors: np.ndarray, mass: np.ndarray) -> tuple[int, int]:
    """Converged Ritz values from both ends inwards whose mass is not that of many eigenvectors."""
    single = (errors <= RESOLVED * np.abs(theta)) & (mass <= MOST_MASS)
    low = int(np.argmin(np.append(single & (theta < 0), False)))
    high = int(np.argmin(np.append((single & (theta > 0))[::-1], False)))
    return low, high


def _copies(split: Split, seen: np.ndarray, unit: float) -> tuple[str, ...]:
    """A Ritz value is a proof: there the complement has an eigenvalue at least as far out."""
    theta, notes = split.theta, []
    inner = theta[split.low : len(theta) - split.high]
    for name, farthest, edge in (
        ("below", -seen[0], -inner.min(initial=0.0)),
        ("above", seen[-1], inner.max(initial=0.0)),
    ):
        outermost = theta[-1] if name == "above" else -theta[0]
        if farthest > edge + split.noise + 0.05 * max(outermost - edge, 0.0):
            sign = 1 if name == "above" else -1
            notes.append(
                f"a second start finds eigenvalues {name} {sign * farthest * unit:.6g} that the "
                "run has not resolved (copies?); deflate=hs.eigsh(A, k) takes them out"
            )
    return tuple(notes)


def _mirrored(split: Split) -> Split:
    """The split of -A."""
    theta, errors = -split.theta[::-1], split.errors[::-1]
    return replace(
        split, theta=theta, S=split.S[:, ::-1], errors=errors, low=split.high, high=split.low
    )


def _cut(run: Lanczos, split: Split, bound: float, *, sign: int) -> float:
    """The innermost place in a gap above `bound` that no eigenvalue's mass can blur.

    For the upper end of the split; that of -A and sign -1 give the lower end. By Haynsworth's
    formula the outliers taken out below x raise the others by Σ r²/(x - θ) at most.
    """
    theta, errors = split.theta, split.errors
    for j in range(split.high, 0, -1):
        inner, outer = len(theta) - j - 1, len(theta) - j
        if inner < 0:
            return math.inf
        x = (theta[inner] + theta[outer]) / 2
        below = np.r_[0 : split.low, len(theta) - split.high : outer]
        distance = np.maximum(x - theta[below], rounding.POSITIVE)
        shift = float((errors[below] ** 2 / distance).sum())
        clear = theta[outer] - float(errors[outer:].sum()) > x > bound + shift
        where = np.array([sign * x])
        mass = math.exp(-min(float(certificate.log_christoffel(run, where)[0]), 700.0))
        if clear and mass * run.A.n <= CLEAN_CUT:
            return float(x)
    return math.inf

"""The stages of a density: a run, its outliers split off, a second start that verifies them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hesscope import rounding
from hesscope.krylov import certificate
from hesscope.krylov.basis import Basis
from hesscope.krylov.lanczos import Lanczos, independent_seed, random_start
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
    first_seed: int  # of the run; one more for the second start
    split: bool = True  # whether outliers are taken out of the picture
    verify: bool = True  # whether a second start verifies them


@dataclass(frozen=True)
class Split:
    """Ritz values, their errors and masses, and how many at either end are single eigenvalues."""

    theta: np.ndarray  # (m,) ascending
    S: np.ndarray  # (m, m), the Ritz vectors in the basis of the run
    errors: np.ndarray  # (m,) residuals and noise
    noise: float
    low: int
    high: int

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
) -> Request:
    """A request with given pairs taken out before the run; they cost nothing again.

    Their errors know the start that they were found from, so it must not be used again.
    """
    locked, none = Basis(A), np.zeros(0)
    if pairs is None:
        return Request(A, budget, delta, seed, locked, none, none, seed, split, verify)
    locked.extend(pairs.eigenvectors)
    values = pairs.eigenvalues.cpu().double().numpy()
    errors = pairs.residuals.cpu().double().numpy()
    first_seed = independent_seed(seed, pairs.eigenvectors)
    return Request(A, budget, delta, seed, locked, values, errors, first_seed, split, verify)


def resolved(asked: Request) -> Resolved:
    """The run, the outliers in it, the second start, and then the products that are left.

    Raises:
        KeyboardInterrupt: if it came before the first step.
    """
    run = Lanczos(asked.A, random_start(asked.A, asked.locked, asked.first_seed), asked.locked)
    verifying = asked.budget // VERIFYING if asked.verify else 0
    spent, interrupted = _grow(asked, run, asked.budget - verifying, 0)
    if interrupted and run.num_steps == 0:
        raise KeyboardInterrupt
    notes = _told(interrupted)
    split, proof = split_off(asked, run), Verified()
    if verifying and split.num and not interrupted:
        proof = verified(asked, run, split, verifying, spent)
        spent, interrupted = spent + proof.num_matvecs, proof.interrupted
        notes += proof.notes
    if spent < asked.budget and not interrupted:
        more, interrupted = _grow(asked, run, asked.budget - spent, spent)
        spent, notes = spent + more, notes + _told(interrupted)
        split = split_off(asked, run, proof)
    return Resolved(run, split, proof, spent, interrupted, notes)


def split_off(asked: Request, run: Lanczos, proof: Verified | None = None) -> Split:
    """The outliers of a run as it is now; what was verified before stays split."""
    theta, S, residuals = run.ritz()
    size = max(run.scale, float(np.abs(asked.values).max(initial=0.0)))
    noise = rounding.product_noise(asked.A.dtype, size, run.asymmetry)
    errors = residuals + noise
    low = high = 0
    if asked.split:
        low, high = _outliers(theta, errors, S[0] ** 2 * (asked.A.n - len(asked.locked)))
    if proof is not None:
        low = max(low, int((theta < proof.cut_low).sum()))
        high = max(high, int((theta > proof.cut_high).sum()))
    return Split(theta, S, errors, noise, low, high)


def verified(asked: Request, run: Lanczos, split: Split, steps: int, before: int) -> Verified:
    """Certifies from a second start that nothing else lies beyond the cuts."""
    found = asked.locked.copy()
    found.extend(run.vectors(split.S[:, split.indices]))
    start = random_start(asked.A, found, asked.first_seed + 1)
    second = Lanczos(asked.A, start, found, known_scale=run.scale)
    spent, interrupted = _grow(asked, second, steps, before)
    notes = _told(interrupted)
    if second.num_steps == 0:
        return Verified(notes=notes, num_matvecs=spent, interrupted=interrupted)
    lower = certificate.lower_bound(second, asked.delta / 2) - split.noise
    upper = certificate.upper_bound(second, asked.delta / 2) + split.noise
    seen, _, residuals = second.ritz()
    exact = residuals <= RESOLVED * np.abs(seen)
    return Verified(
        cut_low=-_cut(run, _mirrored(split), -lower, sign=-1),
        cut_high=_cut(run, split, upper, sign=1),
        seen=tuple(zip(seen[exact], residuals[exact] + split.noise, strict=True)),
        notes=notes + _copies(split, seen),
        num_matvecs=spent,
        interrupted=interrupted,
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


def _copies(split: Split, seen: np.ndarray) -> tuple[str, ...]:
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
                f"a second start finds eigenvalues {name} {sign * farthest:.6g} that the run "
                "has not resolved (copies?); deflate=hs.eigsh(A, k) takes them out"
            )
    return tuple(notes)


def _mirrored(split: Split) -> Split:
    """The split of -A."""
    theta, errors = -split.theta[::-1], split.errors[::-1]
    return Split(theta, split.S[:, ::-1], errors, split.noise, split.high, split.low)


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

"""What a Lanczos run proves about eigenvalues that it did not find.

An eigenvalue at x carries at most 1 / Σ_j p_j(x)² of the start vector's weight, where p_j are the
orthonormal polynomials of the run (the Christoffel function). A random start gives every
eigenvector more than a known weight, except with probability delta. Where the first is below the
second, there is no eigenvalue (van Dorsselaer, Hochstenbach and van der Vorst 2000). No products
are needed, and x may be chosen after the run: only the start is random.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from hesscope import rounding
from hesscope.krylov.lanczos import Lanczos, Recurrence

PIECES = 12  # per gap: more pieces make the bound on a gap tighter
NEGLIGIBLE = 1e-10  # eigenvector entries below are rounding noise; leaving them out is safe
DOUBLINGS = 8  # of a distance, tried at once
TINY = 1e-150  # stands for beta = 0: the measure has no mass off the Ritz values

Run = Lanczos | Recurrence


def log_weight_floor(share: float, delta: float) -> float:
    """log w, where P(weight of a fixed eigenvector < w) <= delta.

    The weight is (u'x + σ u'z)²/‖v‖² with u'z standard normal, and a shifted normal variable has
    at most the density √(1/2π)/σ anywhere, so P(|u'v| < s) <= s √(2/π)/σ.
    """
    return 2 * math.log(delta) + math.log(math.pi / 2) + math.log(share)


def log_christoffel(run: Run, x: np.ndarray) -> np.ndarray:
    """log Σ_{j=0}^{m} p_j(x)² for each x, by the recurrence with its exponent kept apart."""
    total, _ = _recurrence(run, x)
    return total


def risk(run: Run, gaps: list[tuple[float, float]]) -> float:
    """The probability at which an eigenvector with its eigenvalue in the gaps may be unseen.

    Infinite ends are allowed; empty gaps have no risk, and a gap that holds a Ritz value is not
    excluded by anything. For several eigenvectors risks add up; for several gaps they do not,
    because it is the start that has too little of an eigenvector, wherever its eigenvalue is.
    """
    gaps = [(low, high) for low, high in gaps if low < high]
    if not gaps:
        return 0.0
    theta, S = np.linalg.eigh(_tridiagonal(run))
    blur = rounding.product_noise(torch.float64, run.scale)  # of Ritz values, so of a gap's ends
    low, high = np.array(gaps).T + np.array([[-blur], [blur]])
    if ((theta >= low[:, None]) & (theta <= high[:, None])).any():
        return 1.0
    least = _log_least(run, low, high, theta, np.abs(S[-1]))
    log_delta = -(least.min() + math.log(math.pi / 2) + math.log(run.share)) / 2
    return math.exp(min(log_delta, 0.0))


def combined(risks: list[float]) -> float:
    """The risk that independent starts have all missed the same eigenvector (Fisher 1932).

    A risk is a p-value, and products of p-values are small too often: of t uniform ones
    P(product <= π) = π Σ_{j<t} (-log π)^j / j!.

    >>> round(combined([0.01]), 12), combined([0.1, 0.1]) > 0.01
    (0.01, True)
    """
    product = math.prod(risks)
    if product <= 0.0 or not risks:
        return product
    far = -math.log(product)
    if far == 0.0:
        return 1.0
    logs = (j * math.log(far) - math.lgamma(j + 1) - far for j in range(len(risks)))
    return min(1.0, math.fsum(math.exp(log) for log in logs))  # no power of many risks overflows


def upper_bound(run: Run, delta: float) -> float:
    """The smallest x found with no eigenvalue above it, except with probability delta."""
    theta, _ = np.linalg.eigh(_tridiagonal(run))
    return _outermost(run, float(theta[-1]), run.scale, +1.0, delta)


def lower_bound(run: Run, delta: float) -> float:
    """The largest x found with no eigenvalue below it, except with probability delta."""
    theta, _ = np.linalg.eigh(_tridiagonal(run))
    return _outermost(run, float(theta[0]), run.scale, -1.0, delta)


def _log_least(
    run: Run, low: np.ndarray, high: np.ndarray, theta: np.ndarray, last: np.ndarray
) -> np.ndarray:
    """For each gap between Ritz values, a number that log Σ_{j<=m} p_j² nowhere falls below.

    Beyond the outermost Ritz values Σ p_j² grows outwards, so one point decides. In a gap p_m(x)²
    and each term of Σ_{j<m} p_j(x)² = beta² p_m(x)² Σ_i s_i²/(x - θ_i)² are log-concave, because
    the θ_i are the zeros of p_m, so that their least value on a piece of the gap is at an end of
    the piece: a proof, where sampling a grid would be a guess.
    """
    turns = (1 - np.cos(np.linspace(0, np.pi, PIECES + 1))) / 2
    outside = np.isinf(low) | np.isinf(high)
    inner = np.where(np.isinf(low), high, low)
    width = np.where(outside, 0.0, high - inner)
    x = inner[:, None] + width[:, None] * turns  # (gaps, pieces + 1)
    total, log_last = (values.reshape(x.shape) for values in _recurrence(run, x.ravel()))
    heavy = last > NEGLIGIBLE
    constant = 2 * np.log(last[heavy]) + 2 * math.log(max(run.beta[-1], TINY))
    with np.errstate(divide="ignore"):
        distance = np.log(np.abs(x[:, :, None] - theta[heavy]))
        terms = constant + log_last[:, :, None] - 2 * distance
    terms = np.concatenate([terms, log_last[:, :, None]], axis=2)
    pieces = np.logaddexp.reduce(np.minimum(terms[:, :-1], terms[:, 1:]), axis=2)
    return np.where(outside, total[:, 0], pieces.min(axis=1))


def _outermost(run: Run, ritz: float, scale: float, sign: float, delta: float) -> float:
    """The distance from the outermost Ritz value at which weights get too small, to 40 bits.

    Many distances at once, because the recurrence costs the same for one as for thirty.
    """
    if scale == 0.0:  # A times the start vanished: A = 0 on everything that the start touches
        return ritz
    need = -log_weight_floor(run.share, delta)

    def first_excluded(distances: np.ndarray) -> int:
        """Their number if none is; weights only fall on the way out."""
        excluded = log_christoffel(run, ritz + sign * distances) > need
        return int(np.append(excluded, True).argmax())

    nearest = rounding.nearest_bound(scale)
    for doublings in range(0, 88, DOUBLINGS):
        distances = nearest * 2.0 ** np.arange(doublings, doublings + DOUBLINGS)
        found = first_excluded(distances)
        if found < DOUBLINGS:
            break
    else:
        return sign * math.inf
    near, far = distances[found] / 2, distances[found]
    for _ in range(8):
        grid = np.linspace(near, far, 33)
        found = first_excluded(grid[1:-1])
        near, far = grid[found], grid[found + 1]
    return ritz + sign * float(far)


def _tridiagonal(run: Run) -> np.ndarray:
    m = len(run.alpha)
    off = np.array(run.beta[: m - 1])
    return np.diag(run.alpha) + np.diag(off, 1) + np.diag(off, -1)


def _recurrence(run: Run, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log Σ_{j<=m} p_j(x)² and log p_m(x)², from beta_j p_j = (x - a_j) p_{j-1} - b_{j-1} p_{j-2}.

    Values are scaled down when they grow; the sum of squares then loses only what is negligible.
    """
    previous, current = np.zeros_like(x), np.ones_like(x)
    total, exponent = np.ones_like(x), np.zeros_like(x)
    for j, (a, b) in enumerate(zip(run.alpha, run.beta, strict=True)):
        back = run.beta[j - 1] if j else 0.0
        following = ((x - a) * current - back * previous) / max(b, TINY)
        size = np.maximum(np.abs(following), 1.0)
        shrink = np.where(size > 1e100, size, 1.0)
        previous, current = current / shrink, following / shrink
        total = total / shrink / shrink + current**2  # the square of shrink could overflow
        exponent += 2 * np.log(shrink)
    with np.errstate(divide="ignore"):
        return np.log(total) + exponent, np.log(current**2) + exponent

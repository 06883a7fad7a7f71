"""Gauss and Gauss-Radau rules of a Lanczos run, and what they prove about a spectral measure.

A run of m steps from a start v knows the measure μ of v (mass (u_i·v)²/‖v‖² at each eigenvalue λ_i)
through its first 2m moments. That fixes sharp bounds on the mass below any threshold (Chebyshev,
Markov, Stieltjes; Golub and Meurant 2010, chapter 6), and for a Gaussian start the mass below a
threshold tells how many eigenvalues lie there. Numbers in, numbers out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from hesscope import rounding

Floats = NDArray[np.float64]


def gauss(alpha: ArrayLike, beta: ArrayLike) -> tuple[Floats, Floats]:
    """Nodes ascending and weights of the m-point Gauss rule with these recurrence coefficients.

    It integrates polynomials of degree 2m - 1 exactly (Golub and Welsch 1969).

    Args:
        alpha: the diagonal of T, (m,).
        beta: below the diagonal of T, (m - 1,) or more; the rest is not used.

    >>> nodes, weights = gauss([0.0, 0.0], [1.0])
    >>> [float(x) for x in nodes.round(9)], [float(w) for w in weights.round(9)]
    ([-1.0, 1.0], [0.5, 0.5])
    """
    from scipy.linalg import eigh_tridiagonal  # when it is needed: importing hesscope stays fast

    alpha = np.asarray(alpha, float)
    nodes, vectors = eigh_tridiagonal(alpha, np.asarray(beta, float)[: len(alpha) - 1])
    return nodes, vectors[0] ** 2


def radau(alpha: ArrayLike, beta: ArrayLike, x: float) -> tuple[Floats, Floats]:
    """Nodes and weights of the (m + 1)-point rule with one node at x (Golub 1973).

    It integrates polynomials of degree 2m exactly. `beta` has m entries, the last one below T.
    """
    alpha, beta = np.asarray(alpha, float), np.asarray(beta, float)
    last = x + beta[-1] ** 2 / _last_pivot(alpha, beta, x)
    return gauss(np.append(alpha, last), beta)


def _last_pivot(alpha: Floats, beta: Floats, x: float) -> float:
    """1 / [(T - x)⁻¹]_mm, the last pivot of the factorisation of T - x; never zero."""
    pivot = alpha[0] - x
    for j in range(1, len(alpha)):
        pivot = alpha[j] - x - beta[j - 1] ** 2 / (pivot or rounding.LOST)
    return float(pivot or rounding.LOST)


def mass_bounds(alpha: ArrayLike, beta: ArrayLike, x: float) -> tuple[float, float]:
    """A lower bound on the mass below x and an upper bound on the mass up to and including x.

    The masses of the rule with a node at x: without the node, and with it. No sharper bounds
    follow from the moments (Chebyshev, Markov and Stieltjes; Akhiezer 1965, chapter 2). A Ritz
    value that rounding does not tell from x counts as x, so the bounds stay bounds.

    >>> below, up_to = mass_bounds([0.0, 0.0], [1.0, 1.0], 0.0)  # nodes -√2, 0, √2
    >>> round(below, 9), round(up_to, 9)
    (0.25, 0.75)
    """
    alpha, beta = np.asarray(alpha, float), np.asarray(beta, float)
    size = max(np.abs(alpha).max(), np.abs(beta).max(), abs(x))
    if not rounding.squares_are_numbers(torch.float64, size):  # masses have no unit
        alpha, beta, x, size = alpha / size, beta / size, x / size, 1.0
    nodes, weights = radau(alpha, beta, x)
    distance = np.abs(nodes - x)
    at_x = distance <= max(rounding.same_node(size), distance.min())
    below = min(1.0, float(weights[(nodes < x) & ~at_x].sum()))
    return below, min(1.0, below + float(weights[at_x].sum()))


@dataclass(frozen=True)
class Range:
    """The integers low to high."""

    low: int
    high: int


def rank_range(n: int, low: float, high: float, risk: float) -> Range:
    """How many of n eigenvalues carry a mass that is known to lie in [low, high].

    For a Gaussian start the mass of r fixed eigenvectors is Beta(r/2, (n - r)/2). The range holds
    every r for which a mass that large, and one that small, has probability > risk/2 each, so it
    misses the true r with probability at most `risk` (Clopper and Pearson 1934, for Beta).

    >>> rank_range(1000, 0.1, 0.1, 0.05)
    Range(low=76, high=127)
    """
    if n == 0:
        return Range(0, 0)
    first = _first(n, lambda r: low <= 0.0 or 1 - _beta_cdf(n, r, low) > risk / 2)
    after = _first(n, lambda r: high < 1.0 and _beta_cdf(n, r, high) <= risk / 2)
    last = n if high >= 1.0 else after - 1
    return Range(min(first, last), max(first, last))  # passed each other by rounding alone


def _first(n: int, holds: Callable[[int], bool]) -> int:
    """The smallest r from 0 to n from which on `holds` is true; n if it never is."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _beta_cdf(n: int, r: int, mass: float) -> float:
    """P(Beta(r/2, (n - r)/2) <= mass), where no eigenvalue has no mass and all have all of it."""
    from scipy.special import betainc

    if r in (0, n):
        return float(mass >= (0.0 if r == 0 else 1.0))
    return float(betainc(r / 2, (n - r) / 2, min(max(mass, 0.0), 1.0)))

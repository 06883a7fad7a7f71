"""Ritz vectors that nobody asked for, taken out because a proof in the complement is then shorter.

Let the wanted pairs and e others be locked, θ_e < x their values and r_e their residuals, and let P
project on the complement. By Haynsworth's inertia formula A has no more eigenvalues above x than
wanted pairs lie there, if PAP + Σ r_e²/(x - θ_e) lies below x: the spare pairs need not have
converged, they move the threshold for PAP by that sum, the shift. What PAP has left at the top is
then the eigenvalue after them, farther away, and fewer steps exclude what lies beyond.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST = 8  # pairs: each is two vectors more to keep
NEARER = 0.5  # of the window, the most that the threshold may move: never beyond a wanted value


@dataclass(frozen=True)
class Spare:
    """Which Ritz pairs of a run, and by how much nearer a proof has to come for them."""

    indices: np.ndarray
    shift: float = 0.0


def spare(
    theta: np.ndarray, errors: np.ndarray, region: tuple[float, float], window: float
) -> Spare:
    """The pairs next to the wanted region, as many as have converged well enough.

    Args:
        theta: Ritz values, ascending.
        errors: their residuals with rounding.
        region: of wanted values, as of `Wanted.region`: <= low or >= high.
        window: how much farther out the proof begins.

    >>> found = spare(np.array([0.0, 1.0, 2.0, 5.0]), np.full(4, 1e-2), (-np.inf, 5.0), 1e-3)
    >>> found.indices, round(found.shift, 6)  # 1e-4/3 + 1e-4/4 + 1e-4/5
    (array([2, 1, 0]), 7.8e-05)
    """
    low, high = region
    distance = np.minimum(theta - low, high - theta)
    inner = np.flatnonzero(distance > 0)
    nearest = inner[np.argsort(distance[inner], kind="stable")][:MOST]
    shifts = np.cumsum(errors[nearest] ** 2 / (distance[nearest] + window))
    num = int((shifts <= NEARER * window).sum())
    return Spare(nearest[:num], float(shifts[num - 1]) if num else 0.0)

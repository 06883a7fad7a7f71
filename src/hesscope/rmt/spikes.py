"""What noise does to one large eigenvalue: where it moves, and how much of its vector is left.

In the limit n -> ∞ with the spike fixed (Baik, Ben Arous and Péché 2005; Benaych-Georges and
Nadakuditi 2011). Below a threshold the spike leaves no outlier at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hesscope.results.result import Result
from hesscope.system.contexts import public


@dataclass(frozen=True)
class Spike(Result):
    """An eigenvalue before and after noise, and |<v, v_noisy>|² of its eigenvector."""

    before: float
    after: float  # at the edge of the noise's spectrum if it does not stand out
    overlap: float  # squared; 0 if it does not stand out
    stands_out: bool

    def __str__(self) -> str:
        if not self.stands_out:
            return f"{self.before:.6g} is lost in the noise, whose edge is {self.after:.6g}"
        return (
            f"{self.before:.6g} is seen at {self.after:.6g}, squared overlap {self.overlap:.3g} "
            "(limit of large n)"
        )


@public
def additive_spike(theta: float, sigma: float = 1.0) -> Spike:
    """The top eigenvalue of theta v vᵀ + W, W a Wigner matrix with entries of variance sigma²/n.

    It tends to theta + sigma²/theta with squared overlap 1 - sigma²/theta² if theta > sigma, and
    to the edge 2 sigma with overlap 0 otherwise; a negative theta mirrors this (Féral and Péché
    2007; Benaych-Georges and Nadakuditi 2011, section 3.1). The error at size n is of order
    sigma/√n for the eigenvalue.

    Raises:
        ValueError: if sigma is not positive.

    >>> print(additive_spike(2.0))
    2 is seen at 2.5, squared overlap 0.75 (limit of large n)
    """
    _positive("sigma", sigma)
    if abs(theta) <= sigma:
        return Spike(theta, math.copysign(2 * sigma, theta), 0.0, False)
    return Spike(theta, theta + sigma**2 / theta, 1 - (sigma / theta) ** 2, True)


@public
def additive_strength(eigenvalue: float, sigma: float = 1.0) -> Spike:
    """The inverse of `additive_spike`: theta = (λ + √(λ² - 4 sigma²))/2 of an outlier at λ.

    Raises:
        ValueError: if sigma is not positive, or λ lies within the noise.

    >>> additive_strength(2.5).before
    2.0
    """
    _positive("sigma", sigma)
    if abs(eigenvalue) <= 2 * sigma:
        msg = _inside(eigenvalue, 2 * sigma)
        raise ValueError(msg)
    root = math.sqrt(eigenvalue**2 - 4 * sigma**2)
    return additive_spike((eigenvalue + math.copysign(root, eigenvalue)) / 2, sigma)


@public
def covariance_spike(population: float, ratio: float, variance: float = 1.0) -> Spike:
    """The top eigenvalue of X Xᵀ/N for p x N data with one population eigenvalue ℓ > sigma².

    All other population eigenvalues are sigma² = `variance`, and ratio = p/N. With t = ℓ/sigma²
    - 1, the eigenvalue tends to ℓ (1 + ratio/t) with squared overlap (1 - ratio/t²)/(1 + ratio/t)
    if t > √ratio, and to the edge sigma² (1 + √ratio)² with overlap 0 otherwise (Baik and
    Silverstein 2006; Paul 2007). The error at size N is of order ℓ √(2/N).

    Raises:
        ValueError: if an argument is not positive, or ℓ is below the variance.

    >>> print(covariance_spike(3.0, ratio=1.0))
    3 is seen at 4.5, squared overlap 0.5 (limit of large n)
    """
    _positive("ratio", ratio)
    _positive("variance", variance)
    if population < variance:
        msg = f"population={population:g} lies below variance={variance:g}; spikes lie above."
        raise ValueError(msg)
    t = population / variance - 1
    if t <= math.sqrt(ratio):
        return Spike(population, variance * (1 + math.sqrt(ratio)) ** 2, 0.0, False)
    overlap = (1 - ratio / t**2) / (1 + ratio / t)
    return Spike(population, population * (1 + ratio / t), overlap, True)


@public
def covariance_strength(eigenvalue: float, ratio: float, variance: float = 1.0) -> Spike:
    """The inverse of `covariance_spike`: the population eigenvalue of an outlier at λ.

    ℓ/sigma² = (m + √(m² - 4 x))/2 with x = λ/sigma² and m = x + 1 - ratio.

    Raises:
        ValueError: if an argument is not positive, or λ lies within the noise.

    >>> covariance_strength(4.5, ratio=1.0).before
    3.0
    """
    _positive("ratio", ratio)
    _positive("variance", variance)
    edge = variance * (1 + math.sqrt(ratio)) ** 2
    if eigenvalue <= edge:
        msg = _inside(eigenvalue, edge)
        raise ValueError(msg)
    x = eigenvalue / variance
    m = x + 1 - ratio
    root = math.sqrt(max(m**2 - 4 * x, 0.0))  # zero at the edge, up to rounding
    return covariance_spike(variance * (m + root) / 2, ratio, variance)


def _inside(eigenvalue: float, edge: float) -> str:
    return (
        f"eigenvalue={eigenvalue:g} does not exceed the edge {edge:g} of the noise, so no spike "
        "can be read from it; only outliers have one."
    )


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        msg = f"{name}={value} must be positive and finite; 1.0 is the standard choice."
        raise ValueError(msg)

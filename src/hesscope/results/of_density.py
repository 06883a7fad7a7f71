"""What follows from a spectral density, for no product more: the condition of its operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from hesscope import rounding
from hesscope.quadrature import Floats, gauss
from hesscope.results.conditioning import Conditioning
from hesscope.results.density import SpectralDensity
from hesscope.results.estimate import Estimate, Interval

QUANTILES = (0.5, 0.9, 0.99)
THRESHOLDS = 25  # between tau and the largest |λ|, at which eigenvalues are counted
LEVEL = 0.95
SKEWNESS = 1.5  # (2 t² + 1)/6 at t = 2: skewness times the standard error in Johnson's interval


def condition(
    density: SpectralDensity, tau: float | None, dampings: Iterable[float]
) -> Conditioning:
    """The answers of `hs.conditioning`; certain where the density knows all eigenvalues."""
    tau = density.tau if tau is None else tau
    found = [ask(tau) for ask in (density.negative, density.null, density.positive)]
    counts = _Counts(density, tau)
    negative, null, positive = (replace(one, level=counts.level) for one in found)
    level = 1.0 if counts.known else 1 - density.delta
    lambda_max = Interval(float(density.nodes[-1]) - density.rounding, density.upper, level)
    lambda_min = Interval(density.lower, float(density.nodes[0]) + density.rounding, level)
    size = density.size
    return Conditioning(
        n=density.n,
        lambda_max=lambda_max,
        lambda_min=lambda_min,
        tau=tau,
        negative=negative,
        null=null,
        positive=positive,
        kappa=counts.ratio_to_smallest(),
        ratios={q: counts.ratio_to_quantile(q) for q in QUANTILES},
        damped={float(d): _damped(lambda_max, lambda_min, d) for d in dampings},
        effective_rank=_moment(density, lambda x: np.abs(x) / size if size else 0 * x),
        stable_rank=_moment(density, lambda x: (x / size) ** 2 if size else 0 * x),
        num_matvecs=density.num_matvecs,
        notes=density.notes,
    )


class _Counts:
    """Counts of |λ| <= t at thresholds t from tau to the largest |λ|, all at once at 95 %."""

    def __init__(self, density: SpectralDensity, tau: float) -> None:
        self.n, self.tau, self.size = density.n, tau, density.size
        self.most = max(density.upper, -density.lower, density.size)  # no |λ| is larger
        self.none = self.size <= tau  # is above tau, as far as was seen
        self.known = len(density.outliers) == density.n
        self.level = 1.0 if self.known else LEVEL
        self.error = density.rounding  # of each of them, where they are known
        if self.none:
            return
        if self.known:  # count at each of them
            sizes = density.outliers.abs().numpy()
            self.t = np.append(tau, np.sort(sizes[sizes > tau]))
            self.low = self.high = np.searchsorted(np.sort(sizes), self.t, side="right").astype(
                float
            )
            return
        self.t = np.geomspace(tau, self.size, THRESHOLDS)
        level = 1 - density.delta - (1 - LEVEL - density.delta) / THRESHOLDS
        found = [density.count(-t, t, min(level, 1 - 1.0001 * density.delta)) for t in self.t]
        self.low = np.maximum.accumulate([f.low for f in found])
        self.high = np.minimum.accumulate([f.high for f in found][::-1])[::-1]

    def ratio_to_smallest(self) -> Interval:
        """Largest |λ| over the smallest above tau: below some t there is surely none, or one."""
        if self.none:
            return Interval(math.nan, math.nan, self.level)
        some = np.flatnonzero(self.low > self.high[0])
        low = float(self.size / self.t[some[0]]) if len(some) else 1.0
        if self.known:
            return self._of_known(self.size / low)
        empty = np.flatnonzero(self.high <= self.low[0])
        upto = self.t[empty[-1]] if len(empty) else self.tau
        return Interval(low, self.most / float(upto), self.level)

    def ratio_to_quantile(self, q: float) -> Interval:
        """Largest |λ| over the q quantile of |λ| above tau."""
        if self.none:
            return Interval(math.nan, math.nan, self.level)
        most = max(self.n - self.low[0], 1.0)
        least = max(self.n - self.high[0], 1.0)
        below = 1 - np.minimum((self.n - self.low) / least, 1.0)  # a share certainly below t
        above = 1 - (self.n - self.high) / most  # at most this share is below t
        reached = np.flatnonzero(below >= q)
        missed = np.flatnonzero(above < q)
        if len(missed) and self.known:
            missed = missed[-1:] + 1  # a step function of known values jumps at the next of them
        upper = self.t[reached[0]] if len(reached) else self.size
        lower = self.t[missed[-1]] if len(missed) else self.tau
        if self.known and lower == upper:
            return self._of_known(float(lower))
        largest = self.size if self.known else self.most
        return Interval(self.size / float(upper), largest / float(lower), self.level)

    def _of_known(self, x: float) -> Interval:
        """Largest |λ| over x, both of them known to their rounding."""
        low, high = self.size - self.error, self.size + self.error
        return Interval(low / (x + self.error), high / (x - self.error), self.level)


def _damped(lambda_max: Interval, lambda_min: Interval, damping: float) -> Interval | None:
    """κ of A + damping I, if that is certainly positive definite."""
    if lambda_min.low + damping <= 0:
        return None
    low = max(1.0, (lambda_max.low + damping) / (lambda_min.high + damping))
    high = (lambda_max.high + damping) / (lambda_min.low + damping)
    return Interval(low, high, lambda_max.level)


def _moment(density: SpectralDensity, f: Callable[[Floats], Floats]) -> Estimate:
    """Σ f(λ): locked and verified outliers exactly, the rest by quadrature, with sampling error.

    The variance of m zᵀf(B)z/zᵀz over random z is 2 (tr f² - (tr f)²/m), from the same nodes. For
    f >= 0 it is like χ² with ν = (tr f)²/tr f² degrees, which makes the interval longer, above
    more so (Johnson 1978). An outlier that was not verified may have copies: it counts by its
    mass in the start.
    """
    outliers = density.outliers
    beyond = (outliers > density.cut_high) | (outliers < density.cut_low)
    known = outliers[density.locked | beyond].numpy()
    num, exact = density.n - len(known), float(f(known).sum())
    if num == 0:
        return Estimate(exact, 0.0, density.num_matvecs)
    nodes, mass = gauss(density.alpha.numpy(), density.beta.numpy())
    inside = (nodes >= density.cut_low) & (nodes <= density.cut_high)
    values, mass = f(nodes[inside]), mass[inside] / max(mass[inside].sum(), rounding.POSITIVE)
    mean = float(mass @ values)
    square = float(mass @ values**2)
    stderr = math.sqrt(2 * num * max(square - mean**2, 0.0))
    degrees = max(num * mean**2 / max(square, rounding.POSITIVE), 1.0)
    skewed = SKEWNESS * math.sqrt(8 / degrees) * stderr
    value = exact + num * mean
    return Estimate(value, stderr, density.num_matvecs, above=skewed, degrees=degrees)

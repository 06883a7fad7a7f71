"""Two laws of random eigenvalues, to compare a measured spectrum with: semicircle and MP.

They describe matrices of independent entries. Spectra of trained networks are heavy-tailed and
correlated, so an edge fitted to them does not count outliers; `gaps.outliers` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hesscope import probes, rounding
from hesscope.results.result import Result


@dataclass(frozen=True)
class Semicircle(Result):
    """Wigner's law on [centre - 2 sigma, centre + 2 sigma] (Wigner 1955), with variance sigma².

    The limit of centre I + W for symmetric n x n W with independent entries of variance sigma²/n.

    Raises:
        ValueError: if sigma is not positive.

    >>> law = Semicircle(sigma=0.5)
    >>> law.edges, float(law.cdf(0.0))
    ((-1.0, 1.0), 0.5)
    """

    sigma: float = 1.0
    centre: float = 0.0

    def __post_init__(self) -> None:
        _positive("sigma", self.sigma)

    @property
    def edges(self) -> tuple[float, float]:
        """The ends of the support."""
        return self.centre - 2 * self.sigma, self.centre + 2 * self.sigma

    def density(self, x: Tensor | float) -> Tensor:
        """√(4 sigma² - (x - centre)²) / (2 π sigma²), and 0 outside; integrates to 1."""
        u = (_tensor(x) - self.centre) / (2 * self.sigma)
        return (1 - u.square()).clamp_min(0).sqrt() / (math.pi * self.sigma)

    def cdf(self, x: Tensor | float) -> Tensor:
        """The share of eigenvalues <= x: 1/2 + (u √(1 - u²) + asin u) / π, u = (x-c)/(2 sigma)."""
        u = ((_tensor(x) - self.centre) / (2 * self.sigma)).clamp(-1, 1)
        return 0.5 + (u * (1 - u.square()).sqrt() + u.asin()) / math.pi

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """(n,) ascending eigenvalues of centre I + W, W Gaussian orthogonal (GOE).

        Off-diagonal entries have variance sigma²/n, diagonal ones twice that. Costs one dense
        diagonalisation of size n.

        Raises:
            ValueError: if n < 1.
        """
        A = _gaussian(n, n, seed)
        W = (A + A.T) * (self.sigma / math.sqrt(2 * n))
        return torch.linalg.eigvalsh(W) + self.centre

    @classmethod
    def fit(cls, eigenvalues: Tensor) -> Semicircle:
        """The law with the mean and the variance of the eigenvalues.

        On n eigenvalues of such a matrix sigma has standard error sigma/n, and the centre
        √2 sigma/n (linear statistics of rigid eigenvalues; independent values would have 1/√n).

        Raises:
            ValueError: if there are fewer than two different finite values.
        """
        values = _values(eigenvalues)
        sigma = float(values.var(correction=0).sqrt())
        if sigma <= 1e-12 * float(values.abs().max()):
            msg = "all eigenvalues are equal and no law can be fitted; give the whole spectrum."
            raise ValueError(msg)
        return cls(sigma, float(values.mean()))

    def distance(self, eigenvalues: Tensor) -> float:
        """Kolmogorov and Smirnov's sup |F_n - F| between the eigenvalues and this law.

        About log(n)/n for a matrix of this law. No p-value: eigenvalues are not independent.

        Raises:
            ValueError: if the eigenvalues are not finite, or none are given.
        """
        return _kolmogorov(_values(eigenvalues), self.cdf, self.cdf)


@dataclass(frozen=True)
class MarchenkoPastur(Result):
    """The law of X Xᵀ/N, X of p x N independent entries of variance sigma² and ratio = p/N.

    Its continuous part lies on sigma² (1 ∓ √ratio)²; for ratio > 1 a share 1 - 1/ratio of the
    eigenvalues is exactly zero (Marchenko and Pastur 1967).

    Raises:
        ValueError: if the ratio or the variance is not positive.

    >>> law = MarchenkoPastur(ratio=4.0)
    >>> law.edges, law.zeros, float(law.cdf(0.0)), float(law.cdf(9.0))
    ((1.0, 9.0), 0.75, 0.75, 1.0)
    """

    ratio: float
    variance: float = 1.0  # sigma²

    def __post_init__(self) -> None:
        _positive("ratio", self.ratio)
        _positive("variance", self.variance)

    @property
    def edges(self) -> tuple[float, float]:
        """The ends of the continuous part."""
        root = math.sqrt(self.ratio)
        return self.variance * (1 - root) ** 2, self.variance * (1 + root) ** 2

    @property
    def zeros(self) -> float:
        """The share of eigenvalues that are exactly zero."""
        return max(0.0, 1 - 1 / self.ratio)

    def density(self, x: Tensor | float) -> Tensor:
        """√((b - x)(x - a)) / (2 π sigma² ratio x) on [a, b]; integrates to 1 - `zeros`."""
        a, b = self.edges
        x = _tensor(x)
        root = ((b - x) * (x - a)).clamp_min(0).sqrt()
        scale = 2 * math.pi * self.variance * self.ratio
        return torch.where(root > 0, root / (scale * x.abs().clamp_min(rounding.POSITIVE)), 0.0)

    def cdf(self, x: Tensor | float) -> Tensor:
        """The share of eigenvalues <= x, the zeros included."""
        x = _tensor(x)
        return torch.where(x >= 0, self.zeros + self._continuous(x), 0.0)

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """(n,) ascending eigenvalues of X Xᵀ/N for Gaussian X of n x N, N = n/ratio rounded.

        Costs one dense diagonalisation of the smaller size; the zeros are exact.

        Raises:
            ValueError: if n < 1, or so small that N rounds to 0.
        """
        N = round(n / self.ratio)
        if N < 1:
            msg = f"n={n} with ratio={self.ratio:g} leaves no column; give n >= {self.ratio:.0f}."
            raise ValueError(msg)
        X = _gaussian(n, N, seed) * math.sqrt(self.variance / N)
        gram = X @ X.T if n <= N else X.T @ X
        values = torch.linalg.eigvalsh(gram).clamp_min(0)
        return torch.cat([values.new_zeros(n - len(values)), values])

    @classmethod
    def fit(cls, eigenvalues: Tensor) -> MarchenkoPastur:
        """The law with their first two moments: mean = sigma², mean square = sigma⁴ (1 + ratio).

        All eigenvalues are needed, zeros included. On those of such a p x p matrix sigma² has
        standard error sigma² √(2 ratio)/p, and the ratio is too large by ratio/p, up to a random
        error of the same order.

        Raises:
            ValueError: if they are not a spectrum without negative values, or all are equal.
        """
        values = _values(eigenvalues)
        mean, square = float(values.mean()), float(values.square().mean())
        if float(values.min()) < -1e-9 * float(values.abs().max()):
            msg = (
                f"the eigenvalues reach {float(values.min()):.3g} and this law has none below "
                "zero; compare Semicircle.fit, or give the spectrum of a Gauss-Newton matrix."
            )
            raise ValueError(msg)
        if mean <= 0 or square / mean**2 - 1 <= 1e-12:
            msg = "all eigenvalues are equal and no law can be fitted; give the whole spectrum."
            raise ValueError(msg)
        return cls(ratio=square / mean**2 - 1, variance=mean)

    def distance(self, eigenvalues: Tensor) -> float:
        """Kolmogorov and Smirnov's sup |F_n - F|; values below rounding count as zeros.

        About log(n)/n for a matrix of this law. No p-value: eigenvalues are not independent.

        Raises:
            ValueError: if the eigenvalues are not finite, or none are given.
        """
        values = _values(eigenvalues)
        zero = rounding.rank_threshold(torch.float64, len(values), float(values.abs().max()))
        values = torch.where(values.abs() <= zero, 0.0, values)
        return _kolmogorov(values, self.cdf, self._before)

    def _before(self, x: Tensor) -> Tensor:
        """The share of eigenvalues < x."""
        return torch.where(x > 0, self.cdf(x), 0.0)

    def _continuous(self, x: Tensor) -> Tensor:
        """∫_a^x of the density, from ∫√R/t dt = √R + ½(a+b) ∫dt/√R - ab ∫dt/(t√R).

        Here R = (b - t)(t - a); the last two are 2 atan √((t-a)/(b-t)) and 2/√(ab) times
        atan √(b(t-a) / (a(b-t))), written so that the edges come out exactly.
        """
        a, b = self.edges
        t = x.clamp(a, b)
        left, right = (t - a).sqrt(), (b - t).sqrt()
        first = 2 * torch.atan2(left, right)
        last = 2 * torch.atan2(math.sqrt(b) * left, math.sqrt(a) * right)
        integral = left * right + (a + b) / 2 * first - math.sqrt(a * b) * last
        return integral / (2 * math.pi * self.variance * self.ratio)


def _kolmogorov(
    values: Tensor, cdf: Callable[[Tensor], Tensor], before: Callable[[Tensor], Tensor]
) -> float:
    """sup |F_n - F|, attained at an eigenvalue or at a jump of F, from either side."""
    points = torch.cat([values, values.new_zeros(1)]).unique()
    ordered = values.sort().values
    upto = torch.searchsorted(ordered, points, right=True).double() / len(values)
    below = torch.searchsorted(ordered, points).double() / len(values)
    return float(torch.maximum((upto - cdf(points)).abs(), (below - before(points)).abs()).max())


def _tensor(x: Tensor | float) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def _values(eigenvalues: Tensor) -> Tensor:
    """As a flat float64 tensor on the CPU.

    Raises:
        ValueError: if it is empty or not finite.
    """
    values = eigenvalues.detach().double().cpu().flatten()
    if not len(values) or not bool(torch.isfinite(values).all()):
        msg = f"{len(values)} eigenvalues, or some that are not finite; give a whole spectrum."
        raise ValueError(msg)
    return values


def _gaussian(rows: int, columns: int, seed: int) -> Tensor:
    if rows < 1:
        msg = f"n={rows} eigenvalues cannot be drawn; give n >= 1."
        raise ValueError(msg)
    generator = torch.Generator().manual_seed(probes.key(seed, "random matrix"))
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        msg = f"{name}={value} must be positive and finite; 1.0 is the standard choice."
        raise ValueError(msg)

"""A spectral density as a result: atoms with weights, and counts as intervals that hold."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.quadrature import Range, mass_bounds, rank_range
from hesscope.results import html
from hesscope.results.estimate import Interval
from hesscope.results.result import Columns, Result

RELATIVE_TAU = 1e-6  # of the largest |λ|: below, an eigenvalue is called zero by default
ROUNDINGS = 3  # a zero, its error bar, and the threshold are each off by what rounding can do


@dataclass(frozen=True)
class SpectralDensity(Result):
    """The spectrum of an n x n symmetric operator from one Lanczos run, outliers taken out.

    `nodes` and `weights` are the best single picture: every outlier an atom of weight 1/n, the
    rest by Gauss quadrature. What is proven are `count`, `cdf` and `band`: intervals that hold the
    truth with the stated probability over the random start, whatever the operator. They rest on
    sharp bounds on the mass below a threshold and on its Beta distribution; outliers count exactly
    where a second start has verified that none was missed.
    """

    n: int
    nodes: Tensor  # (J,) ascending, float64
    weights: Tensor  # (J,), they add up to 1
    outliers: Tensor  # (k,) descending: single eigenvalues that the run has resolved
    errors: Tensor  # (k,): an eigenvalue lies within outliers ± errors
    locked: Tensor  # (k,) bool: deflated before the run, not split off afterwards
    alpha: Tensor  # (m,) recurrence coefficients of the run in the complement of the locked ones
    beta: Tensor  # (m,)
    cut_low: float  # below this only the outliers there, verified; -inf where nothing was
    cut_high: float  # above this only the outliers there, verified; inf where nothing was
    lower: float  # no eigenvalue lies below, except with probability delta
    upper: float  # no eigenvalue lies above, except with probability delta
    rounding: float  # what rounding does to an eigenvalue
    num_matvecs: int
    delta: float = 1e-3
    seed: int = 0
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """The largest |λ| that was seen."""
        return float(self.nodes.abs().max())

    @property
    def tau(self) -> float:
        """The default threshold below which |λ| is called zero.

        1e-6 of the largest |λ|, and at least three times what rounding can do over all steps:
        below that, a singular operator could not be told from a regular one.
        """
        return max(RELATIVE_TAU * self.size, ROUNDINGS * self.rounding, rounding.POSITIVE)

    def count(
        self, low: float = -math.inf, high: float = math.inf, level: float = 0.95
    ) -> Interval:
        """How many eigenvalues lie in [low, high]: an interval that holds with probability `level`.

        Pointwise: for several statements that shall hold together use `band`, or a higher level.

        Raises:
            ValueError: if level is not between 0 and 1 - delta, or low exceeds high.

        >>> import torch, hesscope as hs
        >>> A = hs.as_operator(torch.diag(torch.cat([torch.zeros(90), torch.ones(10)]).double()))
        >>> 10 in hs.spectral_density(A, max_matvecs=10, seed=0).count(low=0.5)
        True
        """
        if low > high:
            msg = f"low={low} exceeds high={high}; give the smaller one first."
            raise ValueError(msg)
        found = self._range(low, high, self._risk(level))
        return Interval(float(found.low), float(found.high), level)

    def negative(self, tau: float | None = None, level: float = 0.95) -> Interval:
        """How many eigenvalues lie below -tau."""
        return self.count(high=-self._given(tau), level=level)

    def null(self, tau: float | None = None, level: float = 0.95) -> Interval:
        """How many eigenvalues lie within ± tau: not a rank, but what tau cannot tell from zero."""
        tau = self._given(tau)
        return self.count(-tau, tau, level)

    def positive(self, tau: float | None = None, level: float = 0.95) -> Interval:
        """How many eigenvalues lie above tau."""
        return self.count(low=self._given(tau), level=level)

    def cdf(self, x: float, level: float = 0.95) -> Interval:
        """The share of eigenvalues up to x, as an interval that holds with probability `level`."""
        found = self.count(high=x, level=level)
        return Interval(found.low / self.n, found.high / self.n, level)

    def band(self, x: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds (len(x),) on the share of eigenvalues up to each x, all at once.

        They hold together with probability `level` (Bonferroni: each at its part of the risk).

        Raises:
            ValueError: if level is not between 0 and 1 - delta.
        """
        risk = self._risk(level) / max(len(x), 1)
        x, order = x.double().cpu().sort()
        ranges = [self._range(-math.inf, float(t), risk) for t in x]
        low = torch.tensor([r.low for r in ranges], dtype=torch.float64) / self.n
        high = torch.tensor([r.high for r in ranges], dtype=torch.float64) / self.n
        low, high = low.cummax(0).values, high.flip(0).cummin(0).values.flip(0)
        back = order.argsort()
        return low[back], high[back]

    def expected(self, low: float = -math.inf, high: float = math.inf) -> float:
        """The best single number for `count`: n times the weight of the nodes in [low, high]."""
        inside = (self.nodes >= low) & (self.nodes <= high)
        return self.n * float(self.weights[inside].sum())

    def _given(self, tau: float | None) -> float:
        """The threshold to use.

        Raises:
            ValueError: if it is not positive.
        """
        if tau is None:
            return self.tau
        if not tau > 0:
            msg = f"tau={tau} is no threshold; give a positive number, for example {self.tau:.1e}."
            raise ValueError(msg)
        return tau

    def _risk(self, level: float) -> float:
        """What is left for the start vector when the outliers have had their part.

        Raises:
            ValueError: if nothing is left.
        """
        if not 0 < level < 1 - self.delta:
            msg = (
                f"level={level} must lie between 0 and {1 - self.delta:g} = 1 - delta; the usual "
                "one is 0.95. A smaller delta in spectral_density allows for higher levels."
            )
            raise ValueError(msg)
        return 1 - level - self.delta

    def _range(self, low: float, high: float, risk: float) -> Range:
        """The count in [low, high]: locked outliers by inertia, the others in their complement.

        A = [D, Rᵀ; R, B] with the locked values D. By Haynsworth's inertia formula A has as many
        eigenvalues below x as D and B - R (D - x)⁻¹ Rᵀ together, and the last term moves those of
        B by at most Σ r_i²/|d_i - x|. A locked value at x itself may fall on either side.
        """
        d, r = self.outliers[self.locked], self.errors[self.locked]
        below, unsure_below, shift_low = _inertia(d, r, low, strict=True)
        up_to, unsure_up_to, shift_high = _inertia(d, r, high, strict=False)
        outer = self._complement(
            low - shift_low - self.rounding, high + shift_high + self.rounding, risk
        )
        start, end = low + shift_low + self.rounding, high - shift_high - self.rounding
        inner = self._complement(start, end, risk).low if start <= end else -outer.high
        least = up_to - below - unsure_below + inner
        most = up_to + unsure_up_to - below + outer.high
        return Range(max(0, least), min(self.n, most))

    def _complement(self, low: float, high: float, risk: float) -> Range:
        """The count in [low, high] in the complement of the locked outliers."""
        free = ~self.locked
        values, errors = self.outliers[free], self.errors[free]
        beyond = (values > self.cut_high) | (values < self.cut_low)
        values, errors = values[beyond], errors[beyond]
        sure = int(((values - errors >= low) & (values + errors <= high)).sum())
        possible = int(((values + errors >= low) & (values - errors <= high)).sum())
        rest = self.n - int(self.locked.sum()) - len(values)
        low, high = max(low, self.cut_low), min(high, self.cut_high)
        if low > high or rest == 0:
            return Range(sure, possible)
        if low == self.cut_low and high == self.cut_high:
            return Range(sure + rest, possible + rest)
        least, most = self._share(low, high)
        found = rank_range(rest, least, most, risk)
        return Range(sure + found.low, possible + found.high)

    def _share(self, low: float, high: float) -> tuple[float, float]:
        """Bounds on the mass in [low, high] as a share of the mass between the cuts."""
        start, end = self._cut_masses
        a = start if low == self.cut_low else self._masses(low)
        b = end if high == self.cut_high else self._masses(high)
        least = max(0.0, b[0] - a[1] - rounding.MASS) / max(end[1] - start[0], rounding.POSITIVE)
        most = max(0.0, b[1] - a[0]) / max(end[0] - start[1], rounding.POSITIVE)
        return min(least, 1.0), min(most + rounding.MASS, 1.0) if most > 0.0 else 0.0

    @cached_property
    def _cut_masses(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return self._masses(self.cut_low), self._masses(self.cut_high)

    def _masses(self, x: float) -> tuple[float, float]:
        """Bounds on the mass of the start vector below x, and up to x."""
        if math.isinf(x):
            return (0.0, 0.0) if x < 0 else (1.0, 1.0)
        return mass_bounds(self.alpha.numpy(), self.beta.numpy(), x)

    def columns(self) -> Columns:
        """A row for each node of the quadrature."""
        return {"eigenvalue": self.nodes, "share": self.weights}

    def quantities(self) -> dict[str, Any]:
        """The ends, the counts beside τ at 95 %, and how many are known singly."""
        return {
            "eigenvalues": self.n,
            "all lie between": Interval(self.lower, self.upper, 1 - self.delta),
            "τ: below, |λ| is called zero": self.tau,
            "eigenvalues below -τ": self.negative(),
            "eigenvalues within ±τ": self.null(),
            "eigenvalues above τ": self.positive(),
            "single outliers": len(self.outliers),
            "cost in products (matvecs)": self.num_matvecs,
            "seed": str(self.seed),
        }

    def picture(self) -> str:
        """The expected counts in bins of equal width."""
        edges = torch.linspace(self.lower, self.upper, 41, dtype=torch.float64).tolist()
        counts = [self.expected(low, high) for low, high in itertools.pairwise(edges)]
        return html.bars(counts, (f"{self.lower:.4g}", f"{self.upper:.4g}"))

    def __str__(self) -> str:
        tau = self.tau
        lines = [
            f"spectral density of {self.n} eigenvalues, {len(self.outliers)} of them as outliers, "
            f"{self.num_matvecs} matvecs",
            f"  all in [{self.lower:.6g}, {self.upper:.6g}] (probability {1 - self.delta:g})",
            f"  tau = {tau:.1e} = {tau / self.size if self.size else 0:.0e} of the largest |λ|, "
            "counts at 95 %:",
        ]
        for name, found in (
            (f"below -{tau:.1e}", self.negative()),
            (f"within ±{tau:.1e}", self.null()),
            (f"above {tau:.1e}", self.positive()),
        ):
            lines.append(f"    {name:<18} {found.low:.0f} to {found.high:.0f}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def _inertia(d: Tensor, r: Tensor, x: float, *, strict: bool) -> tuple[int, int, float]:
    """Locked values below x (up to x unless strict), those too near to say, and Σ r²/|d - x|."""
    if math.isinf(x):
        return (0 if x < 0 else len(d)), 0, 0.0
    unsure = (d - x).abs() <= 10 * r
    side = (d < x) if strict else (d <= x)
    shift = float((r[~unsure] * (r[~unsure] / (d[~unsure] - x).abs())).sum())
    return int((side & ~unsure).sum()), int(unsure.sum()), shift

"""What can honestly be said of the condition of an operator that may be singular or indefinite."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hesscope.results.estimate import Estimate, Interval
from hesscope.results.result import Result


@dataclass(frozen=True)
class Conditioning(Result):
    """Ratios between eigenvalues that mean something, each as an interval.

    λmax/λmin of a singular or indefinite matrix is not among them: it is infinite or negative, and
    a computed one says how far an iteration got. Lengths are compared with the largest |λ|.
    """

    n: int
    lambda_max: Interval  # the largest eigenvalue: a Ritz value from below, certified from above
    lambda_min: Interval  # the smallest eigenvalue: certified from below, a Ritz value from above
    tau: float  # below, |λ| is called zero
    negative: Interval  # eigenvalues below -tau
    null: Interval  # eigenvalues within ± tau
    positive: Interval  # eigenvalues above tau
    kappa: Interval  # largest |λ| over the smallest |λ| above tau
    ratios: dict[float, Interval]  # 0.5: largest |λ| over that quantile of |λ| above tau
    damped: dict[float, Interval | None]  # damping: κ of A + damping I; None if not proven definite
    effective_rank: Estimate  # tr |A| over the largest |λ|
    stable_rank: Estimate  # ‖A‖_F² over the largest |λ| squared
    num_matvecs: int
    notes: tuple[str, ...] = field(default=())

    @property
    def size(self) -> float:
        """The largest |λ|."""
        return max(abs(self.lambda_max.low), abs(self.lambda_min.high))

    @property
    def singular(self) -> bool:
        """Whether eigenvalues within ± tau are certain (at 95 %)."""
        return self.null.low > 0

    @property
    def definite(self) -> bool:
        """Whether all eigenvalues are certified to lie above tau."""
        return self.lambda_min.low > self.tau

    @property
    def indefiniteness(self) -> Interval | None:
        """λmax/|λmin|, how much stronger the curve is up than down; None unless λmin < 0 < λmax."""
        if self.lambda_min.high >= 0 or self.lambda_max.low <= 0:
            return None
        low = self.lambda_max.low / -self.lambda_min.low
        return Interval(low, self.lambda_max.high / -self.lambda_min.high, self.lambda_max.level)

    @property
    def definite_damping(self) -> Interval:
        """The damping d from which on A + d I is positive definite: above `high` it certainly is.

        Below `low` it certainly is not: there is a direction in which it curves downwards.
        """
        low, high = -self.lambda_min.high, -self.lambda_min.low
        return Interval(max(0.0, low), max(0.0, high), self.lambda_min.level)

    @property
    def critical_step(self) -> float | None:
        """2/λmax, from the certified end: gradient descent on a quadratic is stable below."""
        return 2 / self.lambda_max.high if self.lambda_max.low > 0 else None

    @property
    def statement(self) -> str:
        """The condition number in words."""
        if math.isnan(self.kappa.low):
            return f"zero as far as was seen: no |λ| above {self.tau:.1e}"
        ends = f"{self.kappa.low:.3g}", f"{self.kappa.high:.3g}"
        range_ = ends[0] if ends[0] == ends[1] else f"between {' and '.join(ends)}"
        on = f"on |λ| > {self.tau:.1e} it is {range_}"
        if self.singular:
            few = _counts(self.null).replace("-", " to ")
            return f"singular: κ = ∞ ({few} eigenvalues within ±{self.tau:.1e}); {on}"
        if self.definite:
            low = self.lambda_max.low / self.lambda_min.high
            return f"κ = {low:.4g} to {self.lambda_max.high / self.lambda_min.low:.4g}"
        return f"it is not known whether there are eigenvalues within ±{self.tau:.1e}; {on}"

    def quantities(self) -> dict[str, Any]:
        """The ratios and counts in the order in which they are read."""
        found: dict[str, Any] = {
            "in words": self.statement,
            "λmax": self.lambda_max,
            "λmin": self.lambda_min,
            "τ: below, |λ| is called zero": self.tau,
            "eigenvalues below -τ": self.negative,
            "eigenvalues within ±τ": self.null,
            "eigenvalues above τ": self.positive,
            "κ above τ": self.kappa,
        }
        if self.indefiniteness is not None:
            found["λmax/|λmin|"] = self.indefiniteness
        for q, ratio in self.ratios.items():
            if not math.isnan(ratio.low):
                found[f"largest |λ| over the {100 * q:g} % quantile above τ"] = ratio
        found["effective rank tr|A|/|λ|max"] = self.effective_rank.interval(0.95)
        found["stable rank ‖A‖²/|λ|max²"] = self.stable_rank.interval(0.95)
        if self.lambda_min.low <= 0:
            found["damping from which on it is positive definite"] = self.definite_damping
        for damping, kappa in self.damped.items():
            unproven = "not proven positive definite"
            found[f"κ with damping {damping:g}"] = unproven if kappa is None else kappa
        if self.critical_step is not None:
            found["2/λmax"] = self.critical_step
        return {**found, "cost in products (matvecs)": self.num_matvecs}

    def __str__(self) -> str:
        size = self.size
        relative = self.tau / size if size > 0 else math.nan
        lines = [
            f"condition of {self.n} eigenvalues, {self.num_matvecs} matvecs",
            f"  λmax {_both(self.lambda_max)}   λmin {_both(self.lambda_min)}",
            f"  {self.statement}",
            f"  tau = {self.tau:.1e} = {relative:.0e} of the largest |λ|: "
            f"{_counts(self.negative)} below, {_counts(self.null)} within, "
            f"{_counts(self.positive)} above",
        ]
        if self.indefiniteness is not None:
            lines.append(f"  indefinite: λmax/|λmin| = {_both(self.indefiniteness)}")
        lines += [
            f"  largest |λ| / {100 * q:g} % quantile of |λ| above tau: {_both(ratio)}"
            for q, ratio in self.ratios.items()
            if not math.isnan(ratio.low)
        ]
        lines.append(
            f"  effective rank tr|A|/|λ|max = {_rank(self.effective_rank)}, "
            f"stable rank ‖A‖²/|λ|max² = {_rank(self.stable_rank)}"
        )
        if self.lambda_min.low <= 0:
            lines.append(f"  A + d I is positive definite above d = {_both(self.definite_damping)}")
        for damping, kappa in self.damped.items():
            value = "not proven positive definite" if kappa is None else f"κ = {_both(kappa)}"
            lines.append(f"  A + {damping:g} I: {value}")
        if self.critical_step is not None:
            lines.append(f"  2/λmax = {self.critical_step:.4g}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def _both(interval: Interval) -> str:
    if interval.high - interval.low <= 1e-4 * abs(interval.high):
        return f"{interval.high:.5g}"
    return f"{interval.low:.4g} to {interval.high:.4g}"


def _counts(interval: Interval) -> str:
    if interval.low == interval.high:
        return f"{interval.low:.0f}"
    return f"{interval.low:.0f}-{interval.high:.0f}"


def _rank(estimate: Estimate) -> str:
    return _both(estimate.interval(0.95))

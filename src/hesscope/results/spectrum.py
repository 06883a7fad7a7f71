"""Eigenvalues as results: a few extreme pairs with their errors, or the whole exact spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hesscope.results import html
from hesscope.results.estimate import Interval, plus_minus
from hesscope.results.result import Columns, Result

PRINTED = 60  # eigenpairs that are shown when a result is printed


@dataclass(frozen=True)
class Certificate(Result):
    """What a Lanczos run proves about eigenvalues that were not returned.

    The statements all hold, except with probability `delta` over the random start vectors, whatever
    the matrix (van Dorsselaer, Hochstenbach and van der Vorst 2000), as long as it was not built
    from these vectors: a fresh seed, the default, nobody has known before.
    """

    lower: float  # no eigenvalue of the operator lies below (-inf: nothing was proven)
    upper: float  # no eigenvalue of the operator lies above (inf: nothing was proven)
    window: float  # eigenvalues nearer than this to a printed one are not told apart from it
    complete: bool  # nothing was missed among the wanted eigenvalues, up to the window
    copies: bool  # further copies of a printed eigenvalue are excluded too
    delta: float
    statement: str

    def __str__(self) -> str:
        return self.statement


@dataclass(frozen=True)
class Eigenpairs(Result):
    """k eigenpairs of an n x n symmetric operator, the most wanted first.

    Each interval `eigenvalues[i] ± residuals[i]` holds an eigenvalue (Krylov and Weinstein), in
    the units of the operator. Residuals are the true ‖A v - λ v‖, checked by a product, and hold
    the rounding noise of the operator. Where products are not symmetric to rounding, which `notes`
    then say, eigenvalues are those of (A + Aᵀ)/2, and residuals hold ‖(A - Aᵀ) v‖/2, too.
    `converged[i]` says that the residual met the tolerance.
    """

    eigenvalues: Tensor  # (k,) float64
    eigenvectors: Tensor  # (n, k), columns orthonormal
    residuals: Tensor  # (k,) float64
    converged: Tensor  # (k,) bool
    num_matvecs: int
    certificate: Certificate
    which: str = "LA"
    seed: int = 0
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.eigenvalues)

    def interval(self, i: int) -> Interval:
        """Where an eigenvalue certainly lies: eigenvalues[i] ± residuals[i]."""
        value, error = float(self.eigenvalues[i]), float(self.residuals[i])
        return Interval(value - error, value + error)

    def columns(self) -> Columns:
        """A row for each eigenvalue."""
        return {
            "eigenvalue": self.eigenvalues,
            "residual": self.residuals,
            "converged": self.converged,
        }

    def quantities(self) -> dict[str, Any]:
        """What is certified of eigenvalues that are not in the list, and the cost."""
        certificate = self.certificate
        return {
            "certificate": certificate.statement,
            "all lie between": Interval(
                certificate.lower, certificate.upper, 1 - certificate.delta
            ),
            "cost in products (matvecs)": self.num_matvecs,
            "seed": str(self.seed),
        }

    def __str__(self) -> str:
        lines = [f"{len(self)} eigenpairs ({self.which}), {self.num_matvecs} matvecs"]
        for i in range(min(len(self), PRINTED)):
            mark = "" if self.converged[i] else "   not converged"
            value = plus_minus(float(self.eigenvalues[i]), float(self.residuals[i]))
            lines.append(f"  {i + 1:>3}  {value}{mark}")
        if len(self) > PRINTED:
            lines.append(f"  ... and {len(self) - PRINTED} more in `eigenvalues`")
        lines.append(f"  {self.certificate}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


@dataclass(frozen=True)
class Spectrum(Result):
    """All n eigenvalues, ascending, in float64; each is off by at most `error`."""

    eigenvalues: Tensor  # (n,) float64, ascending
    error: float
    num_matvecs: int
    asymmetry: float = 0.0  # ‖A - A'‖_F / ‖A‖_F of the matrix before it was symmetrised
    zeros: dict[str, int] = field(default_factory=dict)  # exact ones, all equal to shift, by cause
    shift: float = 0.0  # d of an operator A + d I, whose exact eigenvalues are zeros of A
    identities: dict[str, float] = field(default_factory=dict)  # relative errors of known sums
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.eigenvalues)

    @property
    def trace(self) -> float:
        """The sum of the eigenvalues."""
        return float(self.eigenvalues.sum())

    @property
    def frobenius_norm(self) -> float:
        """The square root of the sum of the squared eigenvalues."""
        size = float(self.eigenvalues.abs().max())
        return size * float((self.eigenvalues / size).square().sum().sqrt()) if size else 0.0

    def count(self, low: float = -math.inf, high: float = math.inf) -> int:
        """How many eigenvalues lie in [low, high].

        >>> import torch
        >>> Spectrum(torch.tensor([-1.0, 0.0, 2.0]).double(), 0.0, 3).count(low=-0.5)
        2
        """
        inside = (self.eigenvalues >= low) & (self.eigenvalues <= high)
        return int(inside.sum())

    def columns(self) -> Columns:
        """A row for each eigenvalue."""
        return {"eigenvalue": self.eigenvalues}

    @property
    def tau(self) -> float:
        """What is called zero: 1e-6 of the largest |λ|, at least 10 errors."""
        return max(1e-6 * float(self.eigenvalues.abs().max()), 10 * self.error)

    def quantities(self) -> dict[str, Any]:
        """Ends, sums and counts, and what the exact zeros are due to."""
        n, tau = len(self), self.tau
        negative, positive = self.count(high=-tau), self.count(low=tau)
        found: dict[str, Any] = {
            "eigenvalues": n,
            "each is off by at most": self.error,
            "λmax": float(self.eigenvalues[-1]),
            "λmin": float(self.eigenvalues[0]),
            "trace": self.trace,
            "Frobenius norm": self.frobenius_norm,
            "τ: below, |λ| is called zero": tau,
            "eigenvalues below -τ": negative,
            "eigenvalues within ±τ": n - negative - positive,
            "eigenvalues above τ": positive,
        }
        kind = f"exactly {self.shift:g}" if self.shift else "exactly zero"
        found |= {f"{kind}, taken out: {cause}": num for cause, num in self.zeros.items()}
        errors = {f"relative error of the {name}": e for name, e in self.identities.items()}
        return {**found, **errors, "cost in products (matvecs)": self.num_matvecs}

    def picture(self) -> str:
        """How many eigenvalues lie where, in bins of equal width."""
        finite = self.eigenvalues[self.eigenvalues.isfinite()]
        if not len(finite):
            return ""
        counts = torch.histc(finite, 40)
        ends = f"{float(finite.min()):.4g}", f"{float(finite.max()):.4g}"
        return html.bars(counts.tolist(), ends)

    def __str__(self) -> str:
        n = len(self)
        top = float(self.eigenvalues[-1])
        tau = self.tau
        negative, positive = self.count(high=-tau), self.count(low=tau)
        return "\n".join(
            [
                f"exact spectrum of {n} eigenvalues, each ± {self.error:.1e}, "
                f"{self.num_matvecs} matvecs",
                f"  λmax {top:.6g}   λmin {float(self.eigenvalues[0]):.6g}   "
                f"trace {self.trace:.6g}   Frobenius norm {self.frobenius_norm:.6g}",
                f"  {negative} below -{tau:.1e}, {n - negative - positive} within, "
                f"{positive} above (tau = 1e-6 of the largest |λ|, at least 10 errors)",
                *self._zeros_and_identities(),
            ]
        )

    def _zeros_and_identities(self) -> list[str]:
        lines = []
        if self.zeros:
            causes = ", ".join(f"{num} {cause}" for cause, num in self.zeros.items())
            exact = f"eigenvalues exactly {self.shift:g}" if self.shift else "exact zeros"
            lines.append(f"  {exact} taken out: {causes}")
        if self.identities:
            errors = ", ".join(f"{name} {error:.0e}" for name, error in self.identities.items())
            lines.append(f"  relative errors of identities: {errors}")
        return lines

"""The spectrum at one checkpoint of a series, and how far its space has turned since the last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hesscope.results.estimate import Estimate, Interval, plus_minus
from hesscope.results.history import History
from hesscope.results.result import Columns, Result
from hesscope.results.spectrum import Certificate

KEY = "spectrum"  # of these among the results of a history
SHOWN = 3  # eigenvalues in a line


@dataclass(frozen=True)
class Overlap(Result):
    """Two spaces of the same dimension k: 1 if they are the same, k/n or so if they are random.

    `angles` are the principal angles (Björck and Golub 1973), each off by `angle_error` at most;
    `mean_square` is the mean of their squared cosines, tr(PQ)/k for the projectors P and Q, off by
    `error` at most. An error of 1 says that nothing is known: the eigenvalues go on without a gap
    where the spaces end.
    """

    angles: Tensor  # (k,) radians, ascending
    angle_error: float
    mean_square: float
    error: float

    def __str__(self) -> str:
        if self.error >= 1:
            return "not known, for lack of a gap"
        return plus_minus(self.mean_square, self.error)


@dataclass(frozen=True)
class CheckpointSpectrum(Result):
    """What was measured at one checkpoint.

    `overlap` compares the space of these eigenvectors with that of the checkpoint `before`.
    """

    name: str  # of the file
    eigenvalues: Tensor  # (k,) float64, the most wanted first
    residuals: Tensor  # (k,): an eigenvalue lies within eigenvalues ± residuals
    converged: Tensor  # (k,) bool
    certificate: Certificate
    gap: float  # from these to all others, at least; inf where there are no others
    num_matvecs: int
    loss: float
    overlap: Overlap | None = None
    before: str = ""
    trace: Estimate | None = None
    negative: Interval | None = None  # how many eigenvalues are negative
    n: int = 0
    digest: str = ""  # of weights and buffers, and of those of the checkpoint before
    digest_before: str = ""

    def numbers(self, which: str) -> dict[str, float]:
        """The series that this checkpoint adds a value to."""
        ends = {"LA": {"lambda_max": 0}, "SA": {"lambda_min": 0}}.get(which, {})
        values = self.eigenvalues.tolist()
        found = {"loss": self.loss, **{key: values[i] for key, i in ends.items()}}
        found |= {f"lambda_{i + 1}": value for i, value in enumerate(values)}
        if self.trace is not None:
            found |= {"trace": self.trace.value, "trace_stderr": self.trace.stderr}
        if self.negative is not None:
            found["negative_share"] = self.negative.low / self.n
            found["negative_share_upper"] = self.negative.high / self.n
        if self.overlap is not None:
            value, error = self.overlap.mean_square, self.overlap.error
            found |= {"overlap": value, "overlap_error": error}
            found["overlap_lower"] = max(0.0, value - error)
            found["largest_angle"] = math.degrees(float(self.overlap.angles[-1]))
        return {**found, "check_matvecs": float(self.num_matvecs)}

    def columns(self) -> Columns:
        """A row for each eigenvalue."""
        return {
            "eigenvalue": self.eigenvalues,
            "residual": self.residuals,
            "converged": self.converged,
        }

    def __str__(self) -> str:
        values, errors = self.eigenvalues.tolist(), self.residuals.tolist()
        first = [_value(v, e) for v, e in zip(values, errors, strict=True)][:SHOWN]
        if len(values) > SHOWN:
            first += [f"... {_value(values[-1], errors[-1])}"]
        parts = [f"λ {'  '.join(first)}"]
        if self.trace is not None:
            parts.append(f"trace {plus_minus(self.trace.value, self.trace.stderr)}")
        if self.negative is not None:
            parts.append(f"negative {_percent(self.negative, self.n)}")
        if self.overlap is not None:
            parts.append(f"overlap {self.overlap}")
        if not bool(self.converged.all()):
            parts.append(f"{int((~self.converged).sum())} not converged")
        return "; ".join(parts)


def spectra_of(history: History) -> Mapping[int, CheckpointSpectrum]:
    """The spectra of a series by step, ascending; none in a history of another kind."""
    found = sorted(history.results.get(KEY, {}).items())
    return {step: one for step, one in found if isinstance(one, CheckpointSpectrum)}


def listed(history: History) -> str:
    """A line for each checkpoint of a series, and what happened on the way.

    >>> listed(History.of({}))
    ''
    """
    spectra = spectra_of(history)
    if not spectra:
        return ""
    k = len(next(iter(spectra.values())).eigenvalues)
    spent = sum(one.num_matvecs for one in spectra.values())
    certified = sum(one.certificate.complete for one in spectra.values())
    several = "s" if len(spectra) > 1 else ""
    lines = [f"{len(spectra)} checkpoint{several}, {k} eigenvalues each, {spent} matvecs"]
    width = max(len(str(step)) for step in spectra)
    lines += [f"  {step:>{width}}  {one}" for step, one in spectra.items()]
    lines.append(f"  nothing was skipped among these at {certified} of {len(spectra)}, certified")
    lines += [f"  {event}" for event in history.events]
    return "\n".join(lines)


def _value(value: float, error: float) -> str:
    """Five digits, and the error where it is seen in them."""
    return f"{value:.5g}" if error <= 1e-5 * abs(value) else plus_minus(value, error)


def _percent(counted: Interval, n: int) -> str:
    low, high = (f"{100 * end / n:.2g}" for end in (counted.low, counted.high))
    return f"{low} %" if low == high else f"{low} to {high} %"

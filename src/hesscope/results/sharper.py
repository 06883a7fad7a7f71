"""Several answers to one question: the sharper one takes the place of the others.

Counts of an exact spectrum beside the wide intervals of a density read like a contradiction, though
both hold. Whoever shows results beside each other, or judges them, gives them to `sharper` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hesscope.results.conditioning import Conditioning
from hesscope.results.density import RELATIVE_TAU, SpectralDensity
from hesscope.results.descent import Curvature
from hesscope.results.estimate import Estimate, Interval
from hesscope.results.landscape import Escape
from hesscope.results.of_density import condition
from hesscope.results.of_spectrum import exact_density
from hesscope.results.spectrum import Certificate, Eigenpairs, Spectrum

SAME = ("operator", "model", "n", "items", "mode")  # facts in which one operator agrees with itself
TRACES, NORMS = ("trace",), ("Frobenius norm", "frobenius_norm")  # keys of estimates
LIKE = "exact: from all {} eigenvalues, in place of intervals from {} products"


def sharper(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results, with exact answers where a spectrum of the same operator is among them.

    A density, a condition, the ends of the spectrum, a trace, a Frobenius norm, and what is
    certified of eigenpairs are replaced by what all eigenvalues say of them. One that they
    contradict is of another operator, and stays.

    >>> from hesscope.results.estimate import Estimate
    >>> exact = Spectrum(torch.tensor([1.0, 3.0]).double(), 0.0, 2)
    >>> sharper({"all": exact, "trace": Estimate(4.1, 0.2, 5)})["trace"]
    Estimate(value=4.0, stderr=0.0, num_matvecs=2)
    """
    spectra = [one for one in results.values() if isinstance(one, Spectrum) and len(one)]
    found = dict(results)
    for spectrum in spectra if all(bool(s.eigenvalues.isfinite().all()) for s in spectra) else ():
        found = {key: _sharper(key, value, spectrum) for key, value in found.items()}
    return found


def _sharper(key: str, value: Any, spectrum: Spectrum) -> Any:
    """The exact answer, where it is one to the same question, and there was none before."""
    if any(note.startswith("exact:") for note in getattr(value, "notes", ())):
        return value
    if isinstance(value, SpectralDensity) and value.n == len(spectrum):
        bottom, top = float(value.nodes[0]), float(value.nodes[-1])
        ends = Interval(value.lower, bottom), Interval(top, value.upper)
        agree = _agree(value.facts, spectrum.facts)
        return _density(spectrum, value) if agree and _holds(spectrum, *ends) else value
    if isinstance(value, Conditioning) and value.n == len(spectrum):
        known = _holds(spectrum, value.lambda_min, value.lambda_max)
        return _conditioning(spectrum, value) if known else value
    if isinstance(value, Curvature):
        low = Interval(value.lower, value.lambda_min + value.lambda_min_error)
        high = Interval(value.lambda_max - value.lambda_max_error, value.upper)
        return _curvature(spectrum, value) if _holds(spectrum, low, high) else value
    if isinstance(value, Eigenpairs) and value.eigenvectors.shape[0] == len(spectrum):
        known = _holds(spectrum, *_bounds(value.certificate))
        near = known and len(value) and _agree(value.facts, spectrum.facts)
        return replace(value, certificate=_compared(spectrum, value)) if near else value
    if isinstance(value, Escape) and value.theta.numel() == len(spectrum):
        certificate = value.certificate
        known = _holds(spectrum, *_bounds(certificate))
        return replace(value, certificate=_ends(spectrum, certificate)) if known else value
    if isinstance(value, Estimate) and key in (*TRACES, *NORMS):
        true = spectrum.trace if key in TRACES else spectrum.frobenius_norm
        return _estimate(spectrum, value, true)
    return value


def _holds(spectrum: Spectrum, low: Interval, high: Interval) -> bool:
    """Whether both ends of the spectrum lie where they were found to lie, to rounding."""
    first, last = float(spectrum.eigenvalues[0]), float(spectrum.eigenvalues[-1])
    slack = spectrum.error + RELATIVE_TAU * max(abs(first), abs(last))
    return all(
        end.low - slack <= value <= end.high + slack for end, value in ((low, first), (high, last))
    )


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[key] == other[key] for key in SAME if key in one and key in other)


def _estimate(spectrum: Spectrum, value: Estimate, true: float) -> Estimate:
    """The exact number, unless the estimate is so far from it that it is of something else."""
    if true not in value.interval(1 - 1e-6) and abs(true - value.value) > 1e-6 * abs(true):
        return value
    return Estimate(true, 0.0, spectrum.num_matvecs)


def _curvature(spectrum: Spectrum, value: Curvature) -> Curvature:
    first, last = float(spectrum.eigenvalues[0]), float(spectrum.eigenvalues[-1])
    error = spectrum.error
    return replace(
        value,
        lambda_max=last,
        lambda_max_error=error,
        lambda_min=first,
        lambda_min_error=error,
        lower=first - error,
        upper=last + error,
    )


def _compared(spectrum: Spectrum, pairs: Eigenpairs) -> Certificate:
    """What all eigenvalues say of those that were found without the matrix."""
    found = pairs.eigenvalues.sort()
    wanted = _wanted(spectrum.eigenvalues, len(pairs), pairs.which)
    near = pairs.residuals[found.indices] + pairs.certificate.window + spectrum.error
    whole = bool(((found.values - wanted).abs() <= near).all())
    told = "nothing was skipped" if whole else "not all of the most wanted are in the list"
    known = _ends(spectrum, pairs.certificate)
    statement = f"{told}, and {known.statement}"
    return replace(known, complete=whole, copies=whole, statement=statement)


def _ends(spectrum: Spectrum, certificate: Certificate) -> Certificate:
    """The exact ends, in place of bounds."""
    first, last = float(spectrum.eigenvalues[0]), float(spectrum.eigenvalues[-1])
    return replace(
        certificate,
        lower=first - spectrum.error,
        upper=last + spectrum.error,
        statement=f"all lie in [{first:.5g}, {last:.5g}]: compared with all exact ones",
    )


def _bounds(certificate: Certificate) -> tuple[Interval, Interval]:
    """Where the lowest and the highest eigenvalue may be, by a certificate."""
    return Interval(certificate.lower, torch.inf), Interval(-torch.inf, certificate.upper)


def _wanted(values: Tensor, k: int, which: str) -> Tensor:
    """The k most wanted of all eigenvalues, ascending."""
    if which == "LM":
        return values[values.abs().argsort(descending=True)[:k]].sort().values
    top = {"LA": k, "SA": 0}.get(which, (k + 1) // 2)
    return torch.cat([values[: k - top], values[len(values) - top :]])


def _density(spectrum: Spectrum, value: SpectralDensity) -> SpectralDensity:
    notes = (LIKE.format(len(spectrum), value.num_matvecs),)
    exact = exact_density(spectrum, notes, delta=value.delta, seed=value.seed)
    return replace(exact, facts=value.facts)


def _conditioning(spectrum: Spectrum, value: Conditioning) -> Conditioning:
    """The same questions at the same tau, answered by all eigenvalues."""
    notes = (LIKE.format(len(spectrum), value.num_matvecs),)
    return condition(
        exact_density(spectrum, notes),
        tau=max(value.tau, 2 * spectrum.error),
        dampings=list(value.damped),
    )

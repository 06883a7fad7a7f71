"""Several results beside each other: the numbers that they have in common, each as an interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hesscope import rounding
from hesscope.examination.examination import Examination
from hesscope.results.comparison import Compared, Comparison
from hesscope.results.conditioning import Conditioning
from hesscope.results.density import RELATIVE_TAU, SpectralDensity
from hesscope.results.estimate import Estimate, Interval
from hesscope.results.measurements import Measurements
from hesscope.results.result import Result
from hesscope.results.sharpness import EQUAL, Sharpness
from hesscope.results.spectrum import Eigenpairs, Spectrum
from hesscope.system.contexts import public

Numbers = dict[str, Interval]
R = TypeVar("R", bound=Result)


@public
def compare(
    *results: Result, labels: Sequence[str] | None = None, level: float = 0.95
) -> Comparison:
    """Results of one kind beside each other: what differs for certain, and what cannot be told.

    Differences are taken from the first. Their intervals hold whenever both numbers lie in theirs,
    however they depend on each other: at 90 % for two intervals at 95 %, always for two certain
    ones. Tau is 1e-6 of the largest |λ|. Numbers are those of the data that each result was
    measured on. Curvature falls with the loss by itself, so that training losses that differ by
    more than 5 % are told.

    Args:
        results: two or more of `diagnose`, `spectrum`, `eigsh`, `spectral_density`, `conditioning`,
            `sharpness`, or estimates such as those of `trace`; as they are or from `hs.load`.
        labels: one for each; by default a, b, c, ...
        level: of intervals that hold with a probability.

    Raises:
        TypeError: if they are of different kinds, or of one that has no numbers to compare.
        ValueError: if there are fewer than two, or labels or level do not fit.

    >>> import torch, hesscope as hs
    >>> a, b = (hs.conditioning(torch.diag(torch.tensor([w, 1.0]).double())) for w in (2.0, 5.0))
    >>> found = hs.compare(a, b, labels=["before", "after"])
    >>> found["λmax"].differs, found["λmin"].differs, found["eigenvalues above tau"].differs
    ((True,), (False,), (False,))
    """
    names = _checked(results, labels, level)
    numbers = [_numbers(result, level) for result in results]
    shared = [name for name in numbers[0] if all(name in other for other in numbers[1:])]
    rows = tuple(Compared(name, tuple(other[name] for other in numbers)) for name in shared)
    losses = [_loss(result) for result in results]
    known = [loss for loss in losses if loss is not None]
    equal = None if len(known) < len(losses) else max(known) - min(known) <= EQUAL * max(known)
    return Comparison(names, rows, equal, _notes(results, names, known, equal))


def _checked(
    results: tuple[Any, ...], labels: Sequence[str] | None, level: float
) -> tuple[str, ...]:
    """The labels.

    Raises:
        TypeError: if the results are of different kinds, or cannot be compared.
        ValueError: if there are fewer than two, or labels or level do not fit.
    """
    if len(results) < 2:
        msg = f"{len(results)} result to compare; give two or more."
        raise ValueError(msg)
    kinds = {type(result) for result in results}
    if len(kinds) > 1 or not isinstance(results[0], tuple(READ)):
        given = " and ".join(sorted(kind.__name__ for kind in kinds))
        known = ", ".join(kind.__name__ for kind in READ)
        msg = f"cannot compare {given}; give results of one kind: {known}."
        raise TypeError(msg)
    if not 0 < level < 1:
        msg = f"level={level} is not a probability between 0 and 1; the usual one is 0.95."
        raise ValueError(msg)
    if labels is None:
        labels = [chr(ord("a") + i) if i < 26 else f"result {i + 1}" for i in range(len(results))]
    if len(labels) != len(results) or len(set(labels)) < len(labels):
        msg = f"labels={list(labels)}; give {len(results)} that differ."
        raise ValueError(msg)
    return tuple(map(str, labels))


def _numbers(result: Any, level: float) -> Numbers:
    return next(read for kind, read in READ.items() if isinstance(result, kind))(result, level)


def _of_estimate(result: Estimate, level: float) -> Numbers:
    return {"value": result.interval(level)}


def _of_pairs(result: Eigenpairs, _: float) -> Numbers:
    return {f"eigenvalue {i + 1}": result.interval(i) for i in range(len(result))}


def _of_spectrum(result: Spectrum, _: float) -> Numbers:
    values, error = result.eigenvalues, result.error
    tau = max(RELATIVE_TAU * float(values.abs().max()), 2 * error, rounding.tiny())
    inner, outer = tau - error, tau + error
    return {
        "λmax": _around(float(values[-1]), error),
        "λmin": _around(float(values[0]), error),
        "trace": _around(result.trace, len(values) * error),
        "Frobenius norm": _around(result.frobenius_norm, len(values) ** 0.5 * error),
        "eigenvalues above tau": Interval(result.count(low=outer), result.count(low=inner)),
        "eigenvalues below -tau": Interval(result.count(high=-outer), result.count(high=-inner)),
    }


def _of_density(result: SpectralDensity, level: float) -> Numbers:
    certain = 1 - result.delta
    top, bottom = float(result.nodes[-1]), float(result.nodes[0])
    return {
        "λmax": Interval(top - result.rounding, result.upper, certain),
        "λmin": Interval(result.lower, bottom + result.rounding, certain),
        "eigenvalues above tau": result.positive(level=level),
        "eigenvalues within tau": result.null(level=level),
        "eigenvalues below -tau": result.negative(level=level),
    }


def _of_conditioning(result: Conditioning, level: float) -> Numbers:
    return {
        "λmax": result.lambda_max,
        "λmin": result.lambda_min,
        "eigenvalues above tau": result.positive,
        "eigenvalues within tau": result.null,
        "eigenvalues below -tau": result.negative,
        "κ above tau": result.kappa,
        "effective rank": result.effective_rank.interval(level),
        "stable rank": result.stable_rank.interval(level),
    }


def _of_sharpness(result: Sharpness, level: float) -> Numbers:
    """A maximum that was climbed for is no interval: it may be anything above, and is left out."""
    measured = [one for one in result.measures if one.kind not in ("bound", "unknown")]
    return {one.name: Estimate(one.value, one.error).interval(level) for one in measured}


def _of_measurements(look: Measurements, level: float) -> Numbers:
    numbers: Numbers = {"loss": _around(look["loss"], 0.0)} if "loss" in look else {}
    if "descent" in look:
        descent = look["descent"]
        numbers["gradient norm"] = _around(descent.gradient_norm, descent.rounding)
    if "conditioning" in look:
        numbers |= _of_conditioning(look["conditioning"], level)
    if "curvature" in look:  # sharper than the ends that the density knows
        ends = look["curvature"]
        numbers["λmax"] = _around(ends.lambda_max, ends.lambda_max_error)
        numbers["λmin"] = _around(ends.lambda_min, ends.lambda_min_error)
    for key, name in (("gradient_curvature", "gᵀHg/gᵀg"), ("gradient_in_top", "gradient in top")):
        if key in look:
            numbers[name] = _around(look[key], 0.0)
    return numbers


def _of_examination(result: Examination, level: float) -> Numbers:
    return _of_measurements(result.measurements, level)


READ: dict[type, Callable[[Any, float], Numbers]] = {
    Examination: _of_examination,
    Measurements: _of_measurements,
    Spectrum: _of_spectrum,
    Eigenpairs: _of_pairs,
    SpectralDensity: _of_density,
    Conditioning: _of_conditioning,
    Sharpness: _of_sharpness,
    Estimate: _of_estimate,
}


def _around(value: float, error: float) -> Interval:
    return Interval(value - error, value + error)


def _loss(result: Any) -> float | None:
    """The training loss at which it was measured, where the result knows it."""
    if isinstance(result, Sharpness):
        return result.loss
    look = getattr(result, "measurements", result)
    loss = look.get("loss") if isinstance(look, Measurements) else None
    return None if loss is None else float(loss)


def _notes(
    results: tuple[Any, ...], labels: tuple[str, ...], losses: list[float], equal: bool | None
) -> tuple[str, ...]:
    """What a reader has to know before a difference is believed."""
    notes = []
    if equal is False:
        each = ", ".join(
            f"{loss:.4g} ({label})" for loss, label in zip(losses, labels, strict=True)
        )
        notes.append(
            f"the losses differ: {each}. Curvature falls with the loss by itself, so that networks "
            "are compared at equal loss"
        )
    sizes = [_size(result) for result in results]
    if None not in sizes and len(set(sizes)) > 1:
        notes.append(f"they have {', '.join(f'{size:,}' for size in sizes)} parameters")
    if all(isinstance(result, Examination) for result in results):
        notes += _verdicts(results, labels)
    return tuple(notes)


def _verdicts(results: tuple[Examination, ...], labels: tuple[str, ...]) -> list[str]:
    """Verdicts that are findings in some of them, and not in others."""
    found = [{v.key: v.name for v in result.verdicts if v.finding} for result in results]
    notes = []
    for key in dict.fromkeys(key for one in found for key in one):
        having = [label for one, label in zip(found, labels, strict=True) if key in one]
        if len(having) < len(labels):
            name = next(one[key] for one in found if key in one)
            notes.append(f"{name} is a finding in {', '.join(having)} only")
    return notes


def _size(result: Any) -> int | None:
    look = getattr(result, "measurements", result)
    facts = getattr(look, "facts", {})
    size = getattr(look, "n", None) or facts.get("n")
    return None if size is None else int(size)

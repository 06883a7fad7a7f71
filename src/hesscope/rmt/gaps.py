"""Outliers by the largest gap ratio: the count that finds C - 1 in trained classifiers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hesscope.results.decomposition import ClassDecomposition
from hesscope.results.estimate import Interval
from hesscope.results.outliers import Outliers
from hesscope.results.spectrum import Eigenpairs, Spectrum
from hesscope.system.contexts import public

LIMIT = 100  # gaps looked at where the number of classes is not known
CLEAR = 1.5  # smallest gap ratio of a clear count
LEAD = 1.3  # times the runner-up's ratio, which a clear gap ratio must exceed
NOISE = 10  # errors that an eigenvalue must exceed: below, its ratios are not known to 20 %
INSIDE = 0.5  # squared projection above which an eigenvector belongs to the class subspace


@public
def outliers(
    eigenvalues: Spectrum | Eigenpairs | Tensor,
    num_classes: int | None = None,
    *,
    classes: ClassDecomposition | Tensor | None = None,
    limit: int | None = None,
) -> Outliers:
    """The i at which λ_i / λ_{i+1} is largest, over positive eigenvalues in descending order.

    Outliers stand above the bulk and are few, so i runs while λ_i > δ, where δ = |λ_min| if
    λ_min < 0 is known, and, in a whole spectrum, through half of the positive eigenvalues. Only
    eigenvalues above ten times their error have a ratio. Of k pairs, k - 1 gaps are seen.

    The count is "clear" if, for all values within the errors of the eigenvalues, its ratio is at
    least 1.5 and more than 1.3 times every other, and if (λ_i - δ) / (λ_{i+1} + δ) is still 1.5:
    in H = G + R with G >= 0, negative curvature comes from R alone, so ‖R‖ >= δ, and by Weyl an
    eigenvalue of H is one of G only up to ‖R‖. For pairs δ comes from their certificate.

    In Gauss-Newton spectra of trained softmax networks the largest ratio sits at C - 1 (Papyan
    2019, 2020; `benchmarks/outliers.py`). A gap says nothing of its cause: random networks may
    have one there, too.

    Args:
        eigenvalues: what `hs.spectrum` or `hs.eigsh` returned, or a whole spectrum as a tensor (m,)
            in any order, taken as exact.
        num_classes: C, if the model is a classifier: then gaps up to i = 3 C² are looked at.
        classes: what `hs.class_decomposition(problem, pairs)` returned, or its `overlap`; gives
            `class_count`, the eigenvectors with more than half of their square in the span of the
            class means, and C if `num_classes` is not given.
        limit: how many gaps to look at instead, more than half included; 100 where C is unknown.

    Costs no products with the matrix.

    Raises:
        ValueError: if there are fewer than two eigenvalues, not all are finite, they are from the
            lower end ("SA"), or an argument does not fit.

    >>> import torch, hesscope as hs
    >>> print(hs.outliers(torch.tensor([9.0, 8.0, 7.0, 2.0, 1.8, 1.7, -0.1]), num_classes=4))
    3 outliers, clear: gap ratio λ3/λ4 = 3.5, runner-up λ2/λ3 = 1.14
      gap ratios for C = 4 classes: C-1 = 3: 3.5, C = 4: 1.11, C(C-1) = 12: not seen, C² = 16: ...
      looked at 3 gaps (outliers are a minority); 6 positive eigenvalues in the tensor
    """
    given = _given(eigenvalues)
    overlap, num_classes = _classes(classes, num_classes, eigenvalues)
    gaps, scope = _candidates(given, _most_gaps(num_classes, limit), limit is not None)
    low, high = _bounds(given)
    ratios = given.values[:-1] / given.values[1:]
    count, runner_up = _largest_two(ratios[:gaps])
    reasons = _reasons(given, low[:gaps], high[:gaps], count)
    if num_classes is not None and 0 < len(ratios) < num_classes and not given.whole:
        reasons.append(
            f"the list ends before the gap at C = {num_classes} (ask for k >= {2 * num_classes})"
        )
    none = Interval(math.nan, math.nan)
    return Outliers(
        count=count,
        gap_ratio=float(ratios[count - 1]) if count else math.nan,
        gap_interval=Interval(float(low[count - 1]), float(high[count - 1])) if count else none,
        runner_up=runner_up,
        runner_up_ratio=float(ratios[runner_up - 1]) if runner_up else math.nan,
        clear=not reasons,
        reasons=tuple(reasons),
        considered=gaps,
        eigenvalues=given.values,
        most_negative=given.lowest,
        scope=scope,
        num_classes=num_classes,
        class_count=None if overlap is None else int((overlap > INSIDE).sum()),
        overlap=overlap,
    )


@dataclass(frozen=True)
class _Given:
    """Neighbouring eigenvalues from the top, descending, with errors, and the lowest of all."""

    values: Tensor
    errors: Tensor
    lowest: float  # nan: unknown
    complete: bool  # nothing was skipped between the values
    whole: bool  # nothing lies below them
    where: str

    @property
    def negative(self) -> float:
        """|λ_min| where λ_min < 0 is known, else 0."""
        return max(-self.lowest, 0.0) if math.isfinite(self.lowest) else 0.0

    def above_noise(self) -> _Given:
        """Without the first that is not positive by 10 errors, and what follows it."""
        above = (self.values > NOISE * self.errors) & (self.values > 0)
        num = int(above.long().cumprod(0).sum())
        return replace(self, values=self.values[:num], errors=self.errors[:num])


def _given(eigenvalues: Spectrum | Eigenpairs | Tensor) -> _Given:
    """Whatever was given, as one descending list.

    Raises:
        ValueError: if it is no list of two or more finite eigenvalues from the top.
    """
    if isinstance(eigenvalues, Eigenpairs):
        given = _from_pairs(eigenvalues)
    elif isinstance(eigenvalues, Spectrum):
        values = eigenvalues.eigenvalues.flip(0)
        errors = torch.full_like(values, eigenvalues.error)
        lowest = float(values[-1]) - eigenvalues.error if len(values) else math.nan
        given = _Given(values, errors, lowest, True, True, "the spectrum")
    elif isinstance(eigenvalues, Tensor) and eigenvalues.ndim == 1:
        values = eigenvalues.detach().double().cpu().sort(descending=True).values
        lowest = float(values[-1]) if len(values) and float(values[-1]) < 0 else math.nan
        given = _Given(values, torch.zeros_like(values), lowest, True, True, "the tensor")
    else:
        msg = (
            f"eigenvalues is a {type(eigenvalues).__name__}; give the result of hs.spectrum or "
            "hs.eigsh, or a one-dimensional tensor."
        )
        raise ValueError(msg)
    if len(given.values) < 2:
        msg = f"{len(given.values)} eigenvalues from the top have no gap; give two or more, k >= 2."
        raise ValueError(msg)
    if not bool(torch.isfinite(given.values).all()):
        msg = "eigenvalues are NaN or infinite; hs.check_problem names the cause."
        raise ValueError(msg)
    return given.above_noise()


def _from_pairs(pairs: Eigenpairs) -> _Given:
    """The upper end of a list of pairs: all of "LA", the positive of "LM", the top half of "BE".

    Raises:
        ValueError: if the pairs are from the lower end only.
    """
    if pairs.which == "SA":
        msg = (
            "outliers are counted from the top and these are the smallest eigenvalues "
            '(which="SA"); call hs.eigsh(A, k, which="LA"), or negate the operator.'
        )
        raise ValueError(msg)
    top = -(-len(pairs) // 2) if pairs.which == "BE" else len(pairs)
    values, order = pairs.eigenvalues[:top].detach().double().cpu().sort(descending=True)
    errors = pairs.residuals[:top].detach().double().cpu()[order]
    lowest = pairs.certificate.lower
    if not math.isfinite(lowest):
        ends = pairs.eigenvalues - pairs.residuals
        lowest = float(ends.min()) if pairs.which in {"LM", "BE"} else math.nan
    where = f"the {top} pairs from the top ({pairs.which}), what lies below was not seen"
    complete = pairs.certificate.complete and bool(pairs.converged[:top].all())
    return _Given(values, errors, lowest, complete, False, where)


def _classes(
    classes: ClassDecomposition | Tensor | None,
    num_classes: int | None,
    eigenvalues: Spectrum | Eigenpairs | Tensor,
) -> tuple[Tensor | None, int | None]:
    """Overlaps and the number of classes, where known.

    Raises:
        ValueError: if they contradict each other or the eigenvalues.
    """
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 2):
        msg = f"num_classes={num_classes!r} must be a whole number of at least 2, or None."
        raise ValueError(msg)
    if classes is None:
        return None, num_classes
    overlap = classes.overlap if isinstance(classes, ClassDecomposition) else classes
    if overlap is None:
        msg = "classes holds no overlap; call hs.class_decomposition(problem, pairs) with pairs."
        raise ValueError(msg)
    if isinstance(classes, ClassDecomposition):
        C = classes.class_means.shape[1]
        if num_classes not in {None, C}:
            msg = f"num_classes={num_classes}, but the class means are of {C} classes; leave it."
            raise ValueError(msg)
        num_classes = C
    if isinstance(eigenvalues, Eigenpairs) and len(overlap) != len(eigenvalues):
        msg = (
            f"classes has overlaps of {len(overlap)} vectors and there are {len(eigenvalues)} "
            "pairs; call hs.class_decomposition(problem, pairs) with these pairs."
        )
        raise ValueError(msg)
    return overlap, num_classes


def _most_gaps(num_classes: int | None, limit: int | None) -> int:
    """How many gaps to look at.

    Raises:
        ValueError: if the limit leaves none.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        msg = f"limit={limit!r} gaps leave nothing to compare; give at least 2, or None."
        raise ValueError(msg)
    if limit is not None:
        return limit
    return LIMIT if num_classes is None else 3 * num_classes**2


def _candidates(given: _Given, most: int, insist: bool) -> tuple[int, str]:
    """How many gaps from the top may be the one, and a sentence about it."""
    num, text = max(len(given.values) - 1, 0), ""
    standing = int((given.values > given.negative).sum())
    minority = (len(given.values) + 1) // 2
    if given.whole and not insist and minority < num:
        num, text = minority, " (outliers are a minority)"
    if most < num:
        num, text = most, " (as many as asked for)"
    if standing < num:
        num, text = standing, f" (down to |λmin| = {given.negative:.3g})"
    kind = "positive eigenvalues"
    if float(given.errors.sum()) > 0:
        kind = f"eigenvalues above {NOISE} times their error"
    return num, f"looked at {num} gaps{text}; {len(given.values)} {kind} in {given.where}"


def _largest_two(ratios: Tensor) -> tuple[int, int]:
    """The places (from 1) of the largest and the second largest; 0 where there is none."""
    places = [int(i) + 1 for i in ratios.argsort(descending=True, stable=True)[:2]]
    return places[0] if places else 0, places[1] if len(places) > 1 else 0


def _bounds(given: _Given) -> tuple[Tensor, Tensor]:
    """The least and the greatest ratios that the errors allow."""
    values, errors = given.values, given.errors
    least = (values[:-1] - errors[:-1]) / (values[1:] + errors[1:])
    greatest = (values[:-1] + errors[:-1]) / (values[1:] - errors[1:])
    return least, greatest


def _reasons(given: _Given, low: Tensor, high: Tensor, count: int) -> list[str]:
    """What speaks against the count, given the least and the greatest ratios of the candidates.

    Neighbouring gaps share an eigenvalue, but what is worst for the one is worst for the
    comparison too (both want λ_i small, or λ_{i+1} large), so extremes can be compared singly.
    """
    if not count:
        return ["there is no gap to judge"]
    reasons = []
    least = float(low[count - 1])
    if least < CLEAR:
        reasons.append(f"its ratio can be as low as {least:.3g}, and {CLEAR} is asked for")
    if len(low) == 1:
        reasons.append("there is no second gap to compare it with")
    else:
        rival = float(torch.cat([high[: count - 1], high[count:]]).max())
        if least <= LEAD * rival:
            reasons.append(
                f"another ratio can be as high as {rival:.3g}, and {LEAD} times that is asked for"
            )
    delta = given.negative
    shrunk = float((given.values[count - 1] - delta) / (given.values[count] + delta))
    if shrunk < CLEAR <= least:
        reasons.append(
            f"negative curvature reaches -{delta:.3g}: shifts of that size leave a ratio of "
            f"{shrunk:.2g}"
        )
    if not given.complete:
        reasons.append("the list of eigenpairs is not converged and certified complete")
    return reasons

"""The trace and the Frobenius norm: a Krylov space exactly, what it leaves out by random probes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from hesscope import rounding
from hesscope.estimators.deflation import Deflated, Probe
from hesscope.operator import (
    OperatorLike,
    SymmetricOperator,
    at_order_one,
    in_units,
    symmetric_operator,
)
from hesscope.quadrature import Floats
from hesscope.results.estimate import Estimate, student_quantile
from hesscope.results.spectrum import Eigenpairs
from hesscope.system.contexts import public

PILOT = 8  # probes from which the number of probes is planned
LEVEL = 0.95  # of the interval whose half-width rtol speaks of
SKEWNESS = 1.5  # (2 t² + 1)/6 at t = 2: skewness/√N of a standard error, in Johnson's interval
MAX_MATVECS = 500


@public
def trace(
    A: OperatorLike,
    *,
    rtol: float | None = 0.01,
    max_matvecs: int = MAX_MATVECS,
    pairs: Eigenpairs | None = None,
    seed: int | None = None,
) -> Estimate:
    """The trace of A with an interval, to `rtol` at 95 % or with all of `max_matvecs` products.

    A Lanczos run takes out a Krylov space, whose part of the trace is exact, as long as a step
    saves more probes than it costs; the rest is the mean over random directions of its complement
    (Hutchinson 1990 with deflation as in Hutch++, Meyer et al. 2021, here by the whole Krylov
    space). The number of probes is planned from the first eight and then kept (Stein 1945), so
    that stopping early does not void the interval; their spread is known from ‖PAPz‖², which each
    product gives for free.

    Args:
        A: the operator, or a matrix as for `as_operator`.
        rtol: half-width of the 95 % interval, relative to the trace; None spends `max_matvecs`,
            half of them on the Krylov space.
        max_matvecs: where to stop when rtol is out of reach (a trace near zero); the interval is
            then wider than asked for.
        pairs: eigenpairs that are already known; one product looks whether they are those of A.
        seed: of the random vectors; a fresh one by default, which the result keeps.

    Returns:
        The estimate; unbiased, `interval` covers at its level. Some 40 to 70 matvecs for 1 % of
        the trace of a trained network's Hessian.

    Raises:
        ValueError: if rtol or a number of products is not positive, or pairs are not those of A.
        RuntimeError: if a product is not finite.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5]).double()))
    >>> round(hs.trace(A).value, 9)  # four steps take out the whole space
    6.5
    """
    _check(rtol, max_matvecs)
    A = symmetric_operator(A)
    seed = A.drawn_seed(seed)

    def answer(B: SymmetricOperator, unit: float) -> Estimate:
        rest = Deflated(B, pairs, seed, unit)
        if rtol is None:
            probes = _spend(rest, max_matvecs)
            return _traced(rest, probes, probes)
        pilot, count = _plan_trace(rest, rtol, max_matvecs)
        probes = pilot + [rest.probe() for _ in range(count - len(pilot))]
        return _traced(rest, pilot, probes)

    return at_order_one(A, answer)


@public
def frobenius_norm(
    A: OperatorLike,
    *,
    max_matvecs: int = 40,
    pairs: Eigenpairs | None = None,
    seed: int | None = None,
) -> Estimate:
    """‖A‖_F with an interval, from half a Krylov space and half probes, as in `trace`.

    The Krylov space has its part of Σ λ² exactly, and m ‖PAPz‖²/zᵀz is unbiased for the rest. The
    interval is Student's t over probes, carried to the square root by its derivative, and longer
    at its upper end, because squares are skewed (Johnson 1978).

    Raises:
        ValueError: if max_matvecs is less than 4 or pairs are not those of A.
        RuntimeError: if a product is not finite.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.tensor([4.0, 3.0, 0.0]).double()))
    >>> round(hs.frobenius_norm(A).value, 9)
    5.0
    """
    _check(None, max_matvecs)
    A = symmetric_operator(A)
    seed = A.drawn_seed(seed)

    def answer(B: SymmetricOperator, unit: float) -> Estimate:
        rest = Deflated(B, pairs, seed, unit)
        return _root_of_squares(rest, _spend(rest, max_matvecs))

    return at_order_one(A, answer)


def _root_of_squares(rest: Deflated, probes: list[Probe]) -> Estimate:
    """‖A‖_F from the squares that were taken out and those of the probes."""
    values = np.array([probe.squares for probe in probes])
    total = rest.squares + (values.mean() if len(values) else 0.0)
    norm = math.sqrt(max(total, 0.0))
    spread = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    stderr = float(spread) / (2 * norm) if norm > 0 else 0.0
    degrees = max((len(values) - 1) / 2, 1.0)  # half, because squares are skewed to the right
    skewed = SKEWNESS * _skewness(values) * stderr / math.sqrt(max(len(values), 1))
    error = 2 * rest.measured + rounding.summed(norm)
    return _in_units(rest, Estimate(norm, stderr, 0, error, error + skewed, degrees))


def _in_units(rest: Deflated, found: Estimate) -> Estimate:
    """An estimate of a number that has the unit of the operator, with its seed and cost."""
    return replace(
        found,
        value=found.value * rest.unit,
        stderr=found.stderr * rest.unit,
        below=in_units(found.below, rest.unit),
        above=in_units(found.above, rest.unit),
        num_matvecs=rest.num_matvecs,
        seed=rest.seed,
        notes=rest.notes,
    )


def _skewness(values: Floats) -> float:
    """√(8/ν) of a χ² with ν = 2 mean²/variance degrees, which squares are like."""
    if len(values) < 2:
        return 0.0
    spread = float(values.std(ddof=1)) / max(float(values.mean()), rounding.POSITIVE)
    return min(2 * spread, math.sqrt(8.0))


def _spend(rest: Deflated, num_matvecs: int) -> list[Probe]:
    """Half of the products on a Krylov space, the others on probes."""
    rest.take_krylov(min(num_matvecs // 2, rest.left))
    return [rest.probe() for _ in range(num_matvecs - rest.num_matvecs)] if rest.left else []


def _plan_trace(rest: Deflated, rtol: float, most: int) -> tuple[list[Probe], int]:
    """Krylov spaces and a pilot of probes; the pilot and the number of probes that will do.

    One space misses further copies of a multiple eigenvalue. Where the pilot asks for more probes
    than products were spent, another space is tried, for as long as that pays.
    """
    quantile = student_quantile(0.5 + LEVEL / 2, 2 * PILOT)
    before = math.inf
    while True:
        room = most - rest.num_matvecs - PILOT
        rest.take_krylov(min(rest.left, max(room // 2, 1)), rtol / quantile)
        if rest.left == 0:
            return [], 0
        pilot = [rest.probe() for _ in range(min(PILOT, max(2, most - rest.num_matvecs)))]
        value = rest.trace + float(np.mean([probe.trace for probe in pilot]))
        target = rtol * abs(value) / quantile
        need = _variance(rest, pilot) / max(target**2, rounding.POSITIVE)
        room = most - rest.num_matvecs
        pays = need < before - 2 * PILOT
        if need <= rest.num_matvecs or not pays or room <= 2 * PILOT:
            more = min(need - len(pilot), room)
            return pilot, len(pilot) + max(0, math.ceil(more))
        before = need


def _variance(rest: Deflated, probes: list[Probe]) -> float:
    """Of one probe's trace: 2 (‖B‖_F² - (tr B)²/m) m/(m + 2) on the sphere, with B = PAP."""
    m = rest.left
    squares = float(np.mean([probe.squares for probe in probes]))
    mean = float(np.mean([probe.trace for probe in probes]))
    return 2 * max(squares - mean**2 / m, 0.0) * m / (m + 2)


def _traced(rest: Deflated, planned: list[Probe], probes: list[Probe]) -> Estimate:
    value = rest.trace + (float(np.mean([p.trace for p in probes])) if probes else 0.0)
    error = rest.rounding + rounding.summed(value)
    if not probes:
        return _in_units(rest, Estimate(value, 0.0, 0, error, error))
    stderr = math.sqrt(_variance(rest, planned) / len(probes))
    degrees = 2.0 * len(planned)
    return _in_units(rest, Estimate(value, stderr, 0, error, error, degrees))


def _check(rtol: float | None, max_matvecs: int) -> None:
    """Can this be meant?

    Raises:
        ValueError: if a tolerance or a number of products is not positive.
    """
    if rtol is not None and not rtol > 0:
        msg = f"rtol={rtol} is no tolerance; give a positive one such as 0.01."
        raise ValueError(msg)
    if max_matvecs < 4:
        msg = "a trace needs at least 4 products; the usual number is 40 to 60."
        raise ValueError(msg)

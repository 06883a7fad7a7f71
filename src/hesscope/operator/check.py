"""The check of a user's own operator: of the right form, deterministic, linear, symmetric?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.operator.door import OperatorLike, as_operator
from hesscope.operator.inner import norm
from hesscope.operator.products import fault_of_product
from hesscope.operator.symmetric import SymmetricOperator
from hesscope.results.check import Check, Finding


def check_operator(A: OperatorLike, *, seed: int = 0) -> Check:
    """Is A deterministic, then linear, then symmetric? The first failure is the cause; 4 matvecs.

    With random u, v: A v twice must agree bit for bit or to rounding; A(2u - v) = 2Au - Av; and
    u'Av = v'Au. Tolerances are rounding errors of the dtype, times 100 for the product's own, and
    what numbers lose that are too small for it; where that is more, a note says so. The errors of
    a sum of operators are relative to its summands, which may cancel: 2 more matvecs.

    >>> import torch, hesscope as hs
    >>> hs.check_operator(torch.tensor([[0.0, 1.0], [0.0, 0.0]])).ok
    False
    """
    A = as_operator(A)
    u, v = A.probe(seed), A.probe(seed + 1)
    first = A.matmat(v[:, None])
    if fault := fault_of_product(v[:, None], first):
        return Check((_finding("form", f"`matmat` {fault}"),), num_matvecs=1)
    Av, again, Au, combined = first[:, 0], A @ v, A @ u, A @ (2 * u - v)
    if not all(bool(torch.isfinite(product).all()) for product in (Av, again, Au, combined)):
        problem = _fault("finite", math.nan, "a product with a finite vector is not finite")
        return Check((problem,), num_matvecs=4)
    scale = 2 * _scale(A, u, Au) + _scale(A, v, Av)
    num_matvecs = 4 if len(A._terms()) == 1 else 6
    asymmetry = A.inner(u[:, None], Av[:, None]) - A.inner(v[:, None], Au[:, None])
    tests = (
        ("deterministic", norm(A, Av - again), "two products with one vector differ"),
        ("linear", norm(A, combined - 2 * Au + Av), "A(2u - v) is not 2Au - Av"),
        ("symmetric", abs(float(asymmetry)) / norm(A, u), "u'Av is not v'Au"),
    )
    tolerance, floor = rounding.product_tolerance(A.dtype, A.n), _floor(A)
    for name, error, claim in tests:
        if error > tolerance * scale + floor:
            return Check((_fault(name, error / scale, claim),), num_matvecs)
    return Check(_tiny(floor / scale) if floor > tolerance * scale and scale else (), num_matvecs)


_CURES = {
    "form": "return a tensor of the shape, dtype and device of V.",
    "finite": "look for an overflow, a division by zero or NaN parameters behind `matmat`.",
    "deterministic": "freeze what is random behind `matmat`: data order, dropout, a seed.",
    "linear": "`matmat` must not depend on anything but V, and must be linear in it.",
    "symmetric": "multiply with (A + A')/2, or check the transpose inside `matmat`.",
}


def _fault(name: str, error: float, claim: str) -> Finding:
    return _finding(name, f"{claim} (relative error {error:.1e}).")


def _finding(name: str, cause: str) -> Finding:
    return Finding(name=name, cause=cause, cure=_CURES[name], fault=True)


def _tiny(error: float) -> tuple[Finding]:
    """The note that numbers this small lose digits."""
    cause = f"products this small lose digits: only relative errors above {error:.0e} would show."
    return (Finding("tiny", cause, "check a multiple, c * A with a large c.", fault=False),)


def _scale(A: SymmetricOperator, x: Tensor, Ax: Tensor) -> float:
    """What errors of A x are relative to: ‖A x‖, or Σ |cᵢ| ‖Aᵢ x‖ for a sum, which may cancel."""
    terms = A._terms()
    return norm(A, Ax) if len(terms) == 1 else sum(abs(c) * norm(A, B @ x) for c, B in terms)


def _floor(A: SymmetricOperator) -> float:
    """What the four products in a test may have lost by underflow, in their norm."""
    factors = 1.0 + sum(abs(c) for c, _ in A._terms())
    return 4 * math.sqrt(A.n) * factors * rounding.underflow(A.dtype, A.n)

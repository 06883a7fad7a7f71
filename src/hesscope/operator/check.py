"""The check of a user's own operator: of the right form, deterministic, linear, symmetric?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesscope import probes, rounding
from hesscope.operator.door import OperatorLike, as_operator
from hesscope.operator.inner import norm
from hesscope.operator.products import checked_product
from hesscope.operator.symmetric import SymmetricOperator
from hesscope.results.check import Check, Finding
from hesscope.system.contexts import public


@public
def check_operator(A: OperatorLike, *, seed: int | None = None) -> Check:
    """Of the right form, deterministic, linear, symmetric? The first failure is the cause.

    With random u, v: A [u, v] must be a block like it that leaves its argument alone, and has A v
    in it; A v once more must agree bit for bit or to rounding; A(2u - v) = 2Au - Av; and u'Av =
    v'Au. Tolerances are rounding errors of the dtype, times 100 for the product's own, and what
    numbers lose that are too small for it; where that is more, a note says so. Costs 5 matvecs, and
    2 more for a sum of operators, whose errors are relative to its summands, which may cancel.

    >>> import torch, hesscope as hs
    >>> hs.check_operator(torch.tensor([[0.0, 1.0], [0.0, 0.0]])).ok
    False
    """
    A = as_operator(A)
    own = A.drawn_seed(seed)
    keys = [probes.key(own, "check of an operator", i) for i in range(2)]
    u, v = (A.probe(key) for key in keys)
    V, num_matvecs = torch.stack([u, v], 1), 1
    try:
        Av = (A @ v).clone()  # a copy: `matmat` may use one buffer for all products
        num_matvecs = 4
        again, both = (A @ v).clone(), checked_product(A, V).clone()
        combined = A @ (2 * u - v)
    except ValueError as fault:
        said = str(fault).partition("matmat ")[2]
        return Check((_finding("form", f"`matmat` {said}"),), num_matvecs)
    if not torch.equal(V, torch.stack([A.probe(key) for key in keys], 1)):
        return Check((_finding("form", "`matmat` wrote into its argument."),), num_matvecs)
    Au, num_matvecs = both[:, 0], 5 if len(A._terms()) == 1 else 7
    if not all(bool(torch.isfinite(product).all()) for product in (Av, again, both, combined)):
        problem = _fault("finite", math.nan, "a product with a finite vector is not finite")
        return Check((problem,), 5)
    scale = 2 * _scale(A, u, Au) + _scale(A, v, Av)
    asymmetry = A.inner(u[:, None], Av[:, None]) - A.inner(v[:, None], Au[:, None])
    tests = (
        ("deterministic", norm(A, Av - again), "two products with one vector differ"),
        ("form", norm(A, Av - both[:, 1]), "a product with two vectors is not A with either"),
        ("linear", norm(A, combined - 2 * Au + Av), "A(2u - v) is not 2Au - Av"),
        ("symmetric", abs(float(asymmetry)) / norm(A, u), "u'Av is not v'Au"),
    )
    tolerance, floor = rounding.product_tolerance(A.dtype, A.n), _floor(A)
    for name, error, claim in tests:
        if not error <= tolerance * scale + floor:
            return Check((_fault(name, error / scale, claim),), num_matvecs)
    return Check(_tiny(floor / scale) if floor > tolerance * scale and scale else (), num_matvecs)


_CURES = {
    "form": "return a new tensor of the shape, dtype and device of V, for every number of columns.",
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

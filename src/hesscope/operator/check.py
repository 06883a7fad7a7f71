"""The check of an operator of the user's own: deterministic, linear, symmetric?"""

from __future__ import annotations

import math

import torch

from hesscope.operator.symmetric import SymmetricOperator
from hesscope.results.check import Check, Finding


def check_operator(A: SymmetricOperator, *, seed: int = 0) -> Check:
    """Is A deterministic, then linear, then symmetric? The first failure is the cause; 5 matvecs.

    With random u, v: A v twice must agree bit for bit or to rounding; A(2u - v) = 2Au - Av; and
    u'Av = v'Au. Tolerances are rounding errors of the dtype, times 100 for the product's own.

    >>> import torch, hesscope as hs
    >>> hs.check_operator(hs.as_operator(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))).ok
    False
    """
    u, v = A.probe(seed), A.probe(seed + 1)
    tolerance = 100 * torch.finfo(A.dtype).eps * math.sqrt(max(A.n, 100)) / 10
    Av, again, Au, combined = A @ v, A @ v, A @ u, A @ (2 * u - v)
    scale = float((2 * Au).norm() + Av.norm())
    products = (Av, again, Au, combined)
    if not all(bool(torch.isfinite(product).all()) for product in products):
        problem = _fault("finite", math.nan, "a product with a finite vector is not finite")
        return Check((problem,), num_matvecs=5)
    tests = (
        ("deterministic", float((Av - again).norm()), "two products with one vector differ"),
        ("linear", float((combined - 2 * Au + Av).norm()), "A(2u - v) is not 2Au - Av"),
        (
            "symmetric",
            abs(float(A.inner(u[:, None], Av[:, None]) - A.inner(v[:, None], Au[:, None])))
            / max(float(u.norm()), 1e-300),
            "u'Av is not v'Au",
        ),
    )
    for name, error, claim in tests:
        if error > tolerance * scale > 0:
            return Check((_fault(name, error / scale, claim),), num_matvecs=5)
    return Check((), num_matvecs=5)


_CURES = {
    "finite": "look for an overflow, a division by zero or NaN parameters behind `matmat`.",
    "deterministic": "freeze what is random behind `matmat`: data order, dropout, a seed.",
    "linear": "`matmat` must not depend on anything but V, and must be linear in it.",
    "symmetric": "multiply with (A + A')/2, or check the transpose inside `matmat`.",
}


def _fault(name: str, error: float, claim: str) -> Finding:
    return Finding(
        name=name, cause=f"{claim} (relative error {error:.1e}).", cure=_CURES[name], fault=True
    )

"""One product that tells whether an operator is still the one that a search has seen.

The residual vectors R of a search come from its own coefficients, so they know nothing of an
operator that has changed, or whose products do not add up. Let D = A X - (X Θ + R) with A as it is
now. A combination of the pairs with normal weights g, drawn when they are fixed, gives D g, and
‖D g‖ is at least ‖D‖ |g₁| with g₁ standard normal: it is below ε ‖D‖ with probability 0.8 ε.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hesscope import probes
from hesscope.krylov.pairs import Pairs
from hesscope.operator import SymmetricOperator, finite_product, norm

ROUNDINGS = 4.0  # times the noise of a product: of two, and of the sums; 2.1 was the most seen
CHANGED = 25.0  # times that noise: no rounding, as a `breakdown` is none
MARGIN = 2.0  # what is more than rounding, and less: ‖D g‖² has the mean ‖D‖²_F


@dataclass(frozen=True)
class Drift:
    """What a product of a combination is off by from what the search foretold."""

    off: float = 0.0  # ‖D g‖
    allowed: float = math.inf  # what is no change of the operator
    rounded: float = math.inf  # what rounding explains

    @property
    def changed(self) -> bool:
        """Whether the operator is another one by now."""
        return not self.off <= self.allowed

    @property
    def unexplained(self) -> float:
        """Of an operator that has not changed: nothing where rounding explains it."""
        return MARGIN * self.off if self.off > self.rounded else 0.0

    def added(self, delta: float) -> float:
        """Where changed, ‖D‖ is below except with probability delta; else what is unexplained."""
        return self.off / (delta * math.sqrt(math.pi / 2)) if self.changed else self.unexplained

    def told(self, size: float) -> tuple[str, ...]:
        """That the operator, of this size, is another one by now, where it is."""
        if not self.changed:
            return ()
        return (
            f"the operator has changed since the search, by {self.off / size:.1e} of its size "
            "along a combination of the pairs: residuals are those of the operator as it is now, "
            "and nothing else is proven",
        )


def drift(
    A: SymmetricOperator, pairs: Pairs, noise: float, seed: int, measured: float = 0.0
) -> Drift:
    """That of A as it is now, by one product.

    `noise` is what rounding leaves in a product, `measured` what products of the pairs have been
    found to be off by, if that is more: then errors that no change has made are as large.

    Raises:
        ValueError: if the product is of the wrong form.
        RuntimeError: if it is not finite.
    """
    key = probes.key(seed, "check of a search")
    g = probes.gaussian(len(pairs.values), key)[:, None]
    length = float(torch.linalg.vector_norm(g))
    unit = g / length  # a product with a longer vector could leave the range of floats
    now = finite_product(A, (pairs.vectors @ unit.to(pairs.vectors))[:, 0])
    off = norm(A, now - pairs.along(unit)[:, 0]) * length
    lost = float(pairs.lost @ g[:, 0].abs().numpy())
    allowed = max(CHANGED * noise, measured) * length + lost
    return Drift(off, allowed, max(ROUNDINGS * noise * length + lost, measured / MARGIN))

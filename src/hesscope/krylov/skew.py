"""How far products of a matrix that is not quite symmetric are from those of its symmetric part.

Eigenvalues that are found belong to S = (A + Aᵀ)/2. A residual ‖A x - θ x‖ knows nothing of K x
with K = (A - Aᵀ)/2, for which Aᵀ would be needed; but xᵀ(A z) and zᵀ(A x) differ by 2 zᵀK x, and
over normal z that has the variance 4 ‖K x‖². A few probes are enough for all x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hesscope import probes, rounding
from hesscope.krylov.pairs import Pairs
from hesscope.krylov.rounds import Found, Request
from hesscope.operator import column_products
from hesscope.system import interrupts

PROBES = 8
MARGIN = 4.0  # of ‖K‖_F from the 28 pairs of probes: less than a quarter has probability 1e-4


@dataclass(frozen=True)
class Skew:
    """Upper bounds of ‖K x‖ for each pair and of ‖K‖_F, and the products that they cost."""

    of_vectors: np.ndarray  # (k,)
    anywhere: float
    relative: float  # what was seen of it in the basis of the search
    num_matvecs: int = 0


def skew_of(request: Request, found: Found, pairs: Pairs | None, k: int, left: int) -> Skew:
    """Nothing for a matrix that is symmetric to rounding; else measured, if products are left.

    Bounds of single vectors hold with probability 1 - delta over the probes. Without products they
    are estimates, from the entries of QᵀKQ that the search has seen.
    """
    seen = max(each.asymmetry for each in found.rounds)
    if seen <= rounding.same_computation(request.A.precision):
        return Skew(np.zeros(k), 0.0, seen)
    if pairs is not None and left >= PROBES:
        try:
            return _measured(request, pairs.vectors, pairs.images, seen)
        except KeyboardInterrupt:
            interrupts.note()
    guess = seen * found.scale * math.sqrt(request.A.n)
    return Skew(np.full(k, guess), guess * math.sqrt(request.A.n), seen)


def _measured(request: Request, X: Tensor, AX: Tensor, seen: float) -> Skew:
    A, m, k = request.A, PROBES, X.shape[1]
    keys = [probes.key(request.seed, "skew part", i) for i in range(m)]
    Z = torch.stack([A.probe(key) for key in keys], 1)
    AZ = column_products(A, Z, lambda _: None)
    of_vectors = ((A.inner(AX, Z) - A.inner(X, AZ)) / 2).square().sum(1)  # ‖K x‖² χ²(m)
    least = (math.gamma(m / 2 + 1) * 2 ** (m / 2) * request.delta / k) ** (2 / m)
    G = A.inner(Z, AZ)
    pairs = float(((G - G.T) / 2).square().sum()) / (m * (m - 1))
    bounds = (of_vectors / least).sqrt().cpu().numpy()
    return Skew(bounds, MARGIN * math.sqrt(pairs), seen, m)


def told(skew: Skew) -> tuple[str, ...]:
    """Which matrix eigenvalues belong to, where it is not the one that was given."""
    if not skew.anywhere:
        return ()
    how = f"measured by {skew.num_matvecs} products" if skew.num_matvecs else "as far as was seen"
    return (
        f"products are noisy: u'Av and v'Au differ by {skew.relative:.1e} of A; "
        f"eigenvalues are those of (A + A')/2, and residuals hold ‖(A - A')x‖/2, {how}",
    )

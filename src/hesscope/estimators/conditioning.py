"""The condition of an operator from one spectral density, without ratios that mean nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hesscope.estimators.density import spectral_density
from hesscope.operator import OperatorLike
from hesscope.results.conditioning import Conditioning
from hesscope.results.density import SpectralDensity
from hesscope.results.of_density import condition
from hesscope.system.contexts import public


@public
def conditioning(
    A: OperatorLike | SpectralDensity,
    max_matvecs: int = 100,
    *,
    tau: float | None = None,
    dampings: Sequence[float] = (),
    seed: int | None = None,
) -> Conditioning:
    """What can be said of the condition of A: ends, singularity, ratios to quantiles, ranks.

    One Lanczos run gives the ends (Ritz values from one side, certificates from the other) and
    counts with intervals at 25 thresholds that hold together at 95 %. From these: how many
    eigenvalues tau cannot tell from zero, the ratio of the largest |λ| to the smallest above tau
    and to the 50, 90 and 99 % quantiles of |λ| above tau, κ of A + damping I, λmax/|λmin|, and the
    effective and stable rank.

    Args:
        A: the operator or matrix, or a density that is known and then costs nothing again.
        max_matvecs: products to spend.
        tau: below, |λ| is called zero; by default 1e-6 of the largest, at least three times what
            rounding can do. An absolute and a relative threshold can tell opposite stories of one
            training run, so both are printed.
        dampings: values d for which κ of A + d I is wanted (weight decay, Levenberg-Marquardt).
        seed: of the random starts; a fresh one by default.

    Raises:
        ValueError: if an argument is out of range.
        RuntimeError: if a product is not finite, or A is not symmetric.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0]).double()))
    >>> c = hs.conditioning(A, dampings=[1.0])
    >>> c.singular, round(c.kappa.low, 6), round(c.damped[1.0].high, 6)
    (True, 4.0, 5.0)
    """
    if not all(math.isfinite(d) for d in dampings):
        msg = f"dampings={list(dampings)} have to be finite numbers, such as [1e-3]."
        raise ValueError(msg)
    density = A
    if not isinstance(density, SpectralDensity):
        density = spectral_density(density, max_matvecs, seed=seed)
    return condition(density, tau, dampings)

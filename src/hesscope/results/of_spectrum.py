"""What follows from all eigenvalues: a density without a guess in it."""

from __future__ import annotations

import math

import torch

from hesscope.results.density import SpectralDensity
from hesscope.results.spectrum import Spectrum


def exact_density(
    exact: Spectrum, notes: tuple[str, ...], *, delta: float = 1e-3, seed: int = 0
) -> SpectralDensity:
    """All n eigenvalues as outliers with their rounding error."""
    values = exact.eigenvalues
    return SpectralDensity(
        n=len(values),
        nodes=values,
        weights=torch.full_like(values, 1 / len(values)),
        outliers=values.flip(0),
        errors=torch.full_like(values, exact.error),
        locked=torch.zeros(len(values), dtype=torch.bool),
        alpha=values.new_zeros(0),
        beta=values.new_zeros(0),
        cut_low=math.inf,
        cut_high=math.inf,
        lower=float(values[0]) - exact.error,
        upper=float(values[-1]) + exact.error,
        rounding=exact.error,
        num_matvecs=exact.num_matvecs,
        delta=delta,
        seed=seed,
        notes=notes,
        facts=exact.facts,
    )

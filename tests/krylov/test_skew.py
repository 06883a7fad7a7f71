"""Where A is not quite symmetric, eigenvalues and their errors are those of (A + Aᵀ)/2."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hesscope as hs
from hesscope.krylov.skew import PROBES

N = 200


def spread(seed: int, size: float) -> torch.Tensor:
    """A few eigenvalues outside of a bulk, and a random matrix of this norm."""
    generator = torch.Generator().manual_seed(seed)
    d = torch.cat([torch.linspace(0, 1, N - 5), torch.tensor([3.0, 4.0, 5.0, -2.0, -3.0])]).double()
    noise = torch.randn(N, N, generator=generator, dtype=torch.float64)
    return torch.diag(d) + size * noise / torch.linalg.matrix_norm(noise, 2)


def crowded(seed: int, size: float) -> torch.Tensor:
    """A e = e exactly, where the symmetric part couples e to all of a crowd around it."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(N, generator=generator, dtype=torch.float64)
    u[0] = 0
    M = torch.diag(1 + 1e-3 * size * torch.linspace(-1, 1, N, dtype=torch.float64))
    M[0] += size * u / u.norm()
    M[0, 0] = 1.0
    return M


def operator(M: torch.Tensor) -> hs.SymmetricOperator:
    return hs.as_operator(lambda V: M @ V, n=len(M))


@pytest.mark.parametrize("which", ["LA", "LM", "BE"])
@pytest.mark.parametrize("size", [5e-2, 1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("make", [spread, crowded])
def test_intervals_hold_an_eigenvalue_of_the_symmetric_part(make, size, which):
    for seed in range(5):
        M = make(seed, size)
        S, K = (M + M.T) / 2, (M - M.T) / 2
        exact = torch.linalg.eigvalsh(S)
        start = torch.eye(N, dtype=torch.float64)[0] if make is crowded else None
        pairs = hs.eigsh(operator(M), 3, which, tol=1e-2, start=start, seed=seed)
        for value, error in zip(pairs.eigenvalues, pairs.residuals, strict=True):
            assert float((exact - value).abs().min()) <= float(error)
        away = S @ pairs.eigenvectors - pairs.eigenvectors * pairs.eigenvalues
        assert bool((away.norm(dim=0) <= pairs.residuals * (1 + 1e-9)).all())
        assert bool(((K @ pairs.eigenvectors).norm(dim=0) <= pairs.residuals).all())
        assert pairs.certificate.upper >= float(exact[-1])
        assert pairs.certificate.lower <= float(exact[0])
        if pairs.facts["asymmetry"] > 1e-13:
            assert any("eigenvalues are those of (A + A')/2" in note for note in pairs.notes)


def test_bounds_of_the_skew_part_miss_as_seldom_as_they_say():
    misses = 0
    for seed in range(60):
        M = spread(seed, 1e-3)
        pairs = hs.eigsh(operator(M), 2, seed=seed, delta=0.2)
        skew = ((M - M.T) @ pairs.eigenvectors).norm(dim=0) / 2
        misses += int((skew > pairs.residuals).any())
    assert misses <= 60 * 0.2 + 3 * np.sqrt(60 * 0.2 * 0.8)


def test_it_costs_eight_products_and_nothing_where_a_is_symmetric():
    M = spread(0, 1e-3)
    S = (M + M.T) / 2
    apart, alike = (hs.eigsh(operator(A), 3, seed=0) for A in (M, S))
    assert apart.num_matvecs - alike.num_matvecs == PROBES
    assert alike.notes == ()
    assert alike.facts["asymmetry"] < 1e-14


def test_without_products_left_the_bound_is_what_was_seen_and_says_so():
    M = spread(0, 1e-3)
    pairs = hs.eigsh(operator(M), 1, max_matvecs=12, seed=0)
    assert pairs.num_matvecs <= 12
    assert any("as far as was seen" in note for note in pairs.notes)
    assert bool((((M - M.T) @ pairs.eigenvectors).norm(dim=0) / 2 <= pairs.residuals).all())

"""The step threshold on the quadratic with eigenvalues 100, 10, 3, 1, 0.3, 0.1, in closed form."""

from __future__ import annotations

import pytest
import torch

import hesscope as hs
from tests.clinic.landscapes import rotation
from tests.clinic.steps import EIGENVALUES


def drawn(seed: int) -> tuple[hs.Problem, float]:
    """½ Σ λ_i (q_i·t)² at a random t, and 2 Σ λ_i² c_i² / Σ λ_i³ c_i² with c = Q t."""
    Q = rotation(len(EIGENVALUES), seed)
    c = torch.randn(len(EIGENVALUES), dtype=torch.float64)
    squares = (EIGENVALUES * c) ** 2
    limit = 2 * float(squares.sum() / (EIGENVALUES * squares).sum())
    f = lambda t: 0.5 * (EIGENVALUES * (Q @ t) ** 2).sum()  # noqa: E731
    return hs.Problem.from_function(f, Q.T @ c), limit


@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_is_exact_and_the_loss_turns_there(seed):
    problem, limit = drawn(seed)
    for factor, sign in ((0.99, -1), (1.01, 1)):
        evidence = (
            hs.diagnose(problem, lr=factor * limit, effort="quick").verdict("step size").evidence
        )
        assert evidence["gradient_limit"] == pytest.approx(limit, rel=1e-10)
        assert evidence["stability_limit"] == pytest.approx(2 / 100, rel=1e-10)
        assert sign * evidence["measured_change"] > 0
        assert sign * evidence["predicted_change"] > 0
        assert evidence["measured_change"] == pytest.approx(evidence["predicted_change"], rel=1e-8)

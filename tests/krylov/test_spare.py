"""Spare pairs shorten a proof and take nothing from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hesscope as hs
from hesscope.krylov import spare as module
from hesscope.krylov.basis import Basis
from hesscope.krylov.lanczos import Lanczos, random_start
from hesscope.krylov.spare import NEARER, spare
from hesscope.krylov.wanted import Wanted
from tests.spectra import Known, family, random_eigenvalues
from tests.tolerances import most_misses, rounding


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(12, 50),
    seed=st.integers(0, 100_000),
    steps=st.integers(8, 30),
    k=st.integers(1, 4),
    which=st.sampled_from(["LA", "SA", "LM", "BE"]),
    wide=st.sampled_from([1e-3, 0.1, 1.0]),
)
def test_what_lies_below_the_moved_threshold_in_the_complement_hides_nothing_above(
    n, seed, steps, k, which, wide
):
    """By counting eigenvalues: A has no more beyond the window than were locked there."""
    A = Known(random_eigenvalues(n, seed), rotate=seed)
    run = Lanczos(A, random_start(A, Basis(A), seed), Basis(A))
    while not run.exhausted and run.num_steps < min(steps, n - 1):
        run.step()
    theta, S, residuals = run.ritz()
    if run.exhausted or len(theta) < k + 1:
        return
    wanted = Wanted(k, which)
    chosen = wanted.choose(theta)
    low, high = wanted.region(theta[chosen])
    around = wide * float(np.abs(theta[chosen]).max())
    found = spare(theta, residuals, (low, high), around)
    assert 0.0 <= found.shift <= NEARER * around
    locked = torch.from_numpy(S[:, np.concatenate([chosen, found.indices])])
    X = torch.stack([run.Q[j] for j in range(run.num_steps)], 1) @ locked
    dense = A.to_dense()
    P = torch.linalg.svd(X).U[:, X.shape[1] :]
    left = torch.linalg.eigvalsh(P.T @ dense @ P)
    slack = rounding(torch.float64, 100 * n, float(A.eigenvalues.abs().max()))
    residual = float(residuals[chosen].max())
    for sign, edge in ((1.0, high), (-1.0, -low)):
        if not np.isfinite(edge):
            continue
        x = edge + around
        top = float((sign * left).max())
        mine = int((sign * theta[chosen] > x - residual).sum())
        own = residual**2 * k / around  # of wanted values that lie within the window
        if top <= x - found.shift - own - slack:
            assert int((sign * A.eigenvalues > x + slack).sum()) <= mine


def test_the_closed_form_of_the_shift():
    theta, errors = np.array([-3.0, 0.0, 1.0, 2.0, 5.0]), np.full(5, 0.1)
    found = spare(theta, errors, (-np.inf, 5.0), 1.0)
    assert found.indices.tolist() == [3, 2, 1, 0]
    assert found.shift == pytest.approx(0.01 * (1 / 4 + 1 / 5 + 1 / 6 + 1 / 9))
    assert spare(theta, 10 * errors, (-np.inf, 5.0), 1.0).indices.tolist() == [3, 2]
    assert spare(theta, 10 * errors, (-np.inf, 5.0), 0.1).indices.tolist() == []
    both = spare(theta, errors, (-3.0, 5.0), 1.0)
    assert both.indices.tolist() == [1, 3, 2]  # 3, 3 and 4 from the nearer end


@pytest.mark.parametrize("kind", ["nn", "sing"])
def test_a_proof_takes_fewer_products_with_them(kind, monkeypatch):
    def costs():
        A = Known(family(kind, 2000), rotate=0)
        found = [hs.eigsh(A, 12, seed=seed) for seed in range(4)]
        assert all(pairs.certificate.complete for pairs in found)
        return sum(pairs.num_matvecs for pairs in found)

    with_them = costs()
    monkeypatch.setattr(module, "MOST", 0)
    assert with_them <= costs() - 4


def test_copies_of_wanted_and_of_spare_values_are_missed_as_seldom_as_is_stated():
    runs, delta, wrong, complete = 100, 0.05, 0, 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        outliers = np.sort(rng.uniform(2, 6, 7))[::-1]
        copies = rng.choice(outliers, 3)  # of any of them
        values = np.concatenate([outliers, copies, rng.uniform(-1, 1, 50)])
        A = Known(torch.from_numpy(np.sort(values)[::-1].copy()), rotate=seed)
        pairs = hs.eigsh(A, 4, seed=seed, delta=delta)
        near = (pairs.eigenvalues - A.eigenvalues[:4]).abs() <= pairs.certificate.window
        complete += pairs.certificate.complete
        wrong += pairs.certificate.complete and not bool(near.all())
        wrong += float(A.eigenvalues[0]) > pairs.certificate.upper
    assert complete > 0.8 * runs
    assert wrong <= most_misses(runs, delta)

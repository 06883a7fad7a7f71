"""Two stages, dense to band to eigenvalues: a similarity at every pause, and exact to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hesscope import rounding
from hesscope.dense import banded
from tests.dense.test_spectrum import hadamard

EPS = 2.0**-52


def symmetric(n, seed, rank=None):
    generator = torch.Generator().manual_seed(seed)
    B = torch.randn(n, rank or n, generator=generator, dtype=torch.float64)
    signs = torch.randn(rank or n, generator=generator, dtype=torch.float64).sign()
    return (B * signs) @ B.T


def error_in_rounding(found, truth):
    """The largest error in units of eps √n ‖A‖, of which `hs.spectrum` allows 5."""
    size = float(truth.abs().max())
    return float((found - truth.sort().values).abs().max()) / (EPS * len(truth) ** 0.5 * size)


def band_only(A, width):
    lower = A.tril().triu(-width)
    return lower + lower.tril(-1).T


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 90),
    width=st.integers(1, 20),
    block=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([1e-120, 1.0, 1e120]),
)
def test_the_band_has_the_eigenvalues_of_the_matrix(n, width, block, seed, scale):
    A = scale * symmetric(n, seed)
    truth = torch.from_numpy(np.linalg.eigvalsh(A.numpy()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(banded, "BLOCK", block)
        banded.reduce_to_band(A, width)
    found = banded.eigenvalues(A, width)
    assert error_in_rounding(found, truth) <= 10  # each of the two errs by 5 at most
    assert float(A.tril(-width - 1).abs().max()) == 0


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(3, 60), width=st.integers(1, 8), rank=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_columns_that_are_zero_already_need_no_reflection(n, width, rank, seed):
    """Matrices of low rank, and of rows of zeros: most reflections are the identity."""
    A = symmetric(n, seed, rank)
    dead = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.5
    A[dead], A[:, dead] = 0, 0
    truth = torch.from_numpy(np.linalg.eigvalsh(A.numpy()))
    banded.reduce_to_band(A, width)
    found = banded.eigenvalues(A, width)
    size = max(float(truth.abs().max()), 1e-300)
    assert float((found - truth).abs().max()) <= 10 * EPS * n**0.5 * size


@pytest.mark.parametrize("diagonal", [torch.zeros(50), torch.ones(50), torch.arange(50) - 20.0])
def test_a_diagonal_matrix_stays_what_it_is(diagonal):
    A = torch.diag(diagonal.double())
    banded.reduce_to_band(A, 4)
    assert torch.equal(A.diagonal(), diagonal.double())
    assert torch.equal(banded.eigenvalues(A, 4), diagonal.double().sort().values)


@pytest.mark.parametrize("p", range(3, 12))
def test_integer_matrices_with_known_eigenvalues_err_by_less_than_is_stated(p):
    """H diag(d) H for a Hadamard matrix H: every entry is exact, the eigenvalues are n d."""
    n = 2**p
    d = torch.from_numpy(np.random.default_rng(p).integers(-1000, 1000, n).astype(float))
    H = hadamard(p)
    A = H @ torch.diag(d) @ H
    banded.reduce_to_band(A)
    assert error_in_rounding(banded.eigenvalues(A), n * d) <= 5


@settings(max_examples=30, deadline=None)
@given(n=st.integers(5, 80), width=st.integers(1, 9), seed=st.integers(0, 999), data=st.data())
def test_the_matrix_can_be_taken_up_again_at_every_pause(n, width, seed, data):
    """Stopped anywhere and gone on with from there: the same bits, for one thread's products."""
    whole, halves = symmetric(n, seed), symmetric(n, seed)
    banded.reduce_to_band(whole, width)
    stop = data.draw(st.integers(1, max(1, (n - 1) // width)))
    columns = []

    def pause(column):
        columns.append(column)
        if len(columns) == stop:
            raise KeyboardInterrupt

    try:
        banded.reduce_to_band(halves, width, pause=pause)
    except KeyboardInterrupt:
        banded.reduce_to_band(halves, width, start=columns[-1])
    assert torch.equal(band_only(halves, width), band_only(whole, width))
    assert columns == list(range(width, width * len(columns) + 1, width))


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_error_that_was_seen_is_covered(seed):
    """2,048 rows, where the largest of all was seen: 4.6 of the 10 that are allowed."""
    n = 2**11
    d = torch.from_numpy(np.random.default_rng(seed).integers(-1000, 1000, n).astype(float))
    H = hadamard(11)
    A = H @ torch.diag(d) @ H
    banded.reduce_to_band(A)
    one = torch.float64, 1, 1 / rounding.eps()  # in eps √n |A|
    allowed = rounding.dense_eigenvalue(*one, in_two_stages=True)
    assert error_in_rounding(banded.eigenvalues(A), n * d) <= allowed

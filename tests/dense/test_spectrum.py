"""The exact spectrum: against NumPy, within its own error, and refused before it does not fit."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hesscope as hs
from hesscope.dense import scratch
from hesscope.dense import spectrum as dense
from hesscope.dense.scratch import Scratch, Work
from hesscope.krylov.lanczos import ASYMMETRIC
from hesscope.operator import SpectralForm
from tests.spectra import Known, random_eigenvalues


def hadamard(p: int) -> torch.Tensor:
    """The 2^p x 2^p matrix of ±1 whose columns are orthogonal."""
    H = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(p):
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return H


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    seed=st.integers(0, 100_000),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_the_spectrum_is_numpys_within_the_stated_error(n, seed, scale, dtype):
    A = Known(scale * random_eigenvalues(n, seed), dtype=dtype, rotate=seed)
    result = hs.spectrum(A)
    matrix = A.to_dense().double().numpy()
    theirs = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    rounding = 2.0**-52 * n * np.abs(theirs).max()
    assert np.abs(result.eigenvalues.numpy() - theirs).max() <= result.error + rounding
    assert result.num_matvecs == n
    assert result.facts["operator"] == "Known"


@settings(max_examples=60, deadline=None)
@given(p=st.integers(0, 7), seed=st.integers(0, 10_000))
def test_the_error_covers_integer_matrices_with_known_eigenvalues(p, seed):
    """H diag(d) H for a Hadamard matrix H: every entry is exact, the eigenvalues are n d."""
    n = 2**p
    d = torch.from_numpy(np.random.default_rng(seed).integers(-1000, 1000, n).astype(float))
    H = hadamard(p)
    result = hs.spectrum(hs.as_operator(H @ torch.diag(d) @ H))
    error = (result.eigenvalues - n * d.sort().values).abs().max()
    assert error <= result.error
    assert result.asymmetry == 0.0
    assert result.trace == pytest.approx(float(n * d.sum()), abs=n * max(result.error, 1e-12))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 50), seed=st.integers(0, 10_000), skew=st.floats(1e-8, 0.5))
def test_asymmetry_is_reported_and_covered_by_the_error(n, seed, skew):
    M = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    symmetric = (M + M.T) / 2
    other = skew * torch.triu(M, 1)  # on one side only
    expected = float((other - other.T).norm() / (symmetric + (other + other.T) / 2).norm())
    if expected > ASYMMETRIC:
        with pytest.raises(RuntimeError, match="is not symmetric: A and its transpose differ"):
            hs.spectrum(hs.as_operator(symmetric + other))
        return
    result = hs.spectrum(hs.as_operator(symmetric + other))
    exact = np.linalg.eigvalsh(symmetric.numpy())
    assert np.abs(result.eigenvalues.numpy() - exact).max() <= result.error
    assert result.asymmetry == pytest.approx(expected, rel=1e-6)


def test_counts_and_norms_follow_from_the_eigenvalues():
    result = hs.spectrum(hs.as_operator(torch.diag(torch.tensor([-1.0, 0.0, 2.0, 2.0]).double())))
    assert result.eigenvalues.tolist() == [-1.0, 0.0, 2.0, 2.0]
    assert (len(result), result.trace, result.frobenius_norm) == (4, 3.0, 3.0)
    assert (result.count(), result.count(low=0.5), result.count(-1.0, 0.0)) == (4, 2, 2)


def test_the_zero_operator_has_no_asymmetry():
    result = hs.spectrum(hs.as_operator(torch.zeros(3, 3)))
    assert (result.eigenvalues.tolist(), result.error, result.asymmetry) == ([0.0] * 3, 0.0, 0.0)


def test_a_spectrum_that_does_not_fit_is_refused_before_any_product(monkeypatch):
    monkeypatch.setattr(dense, "available_bytes", lambda device: 10**9)
    monkeypatch.setattr(dense, "_in_place", lambda A: False)
    products = []

    def product(V):
        products.append(V)
        return V

    with pytest.raises(ValueError) as caught:  # noqa: PT011  the message is matched in full
        hs.spectrum(hs.as_operator(product, 60_630))
    assert str(caught.value) == (
        "the exact spectrum of n=60630 eigenvalues needs 58.8 GB of memory and 1.0 GB are free. "
        "Use hs.eigsh for the extreme eigenvalues, or a block of the parameters: "
        "problem.block('layers.3.*')."
    )
    assert products == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_matrix_that_is_not_finite_is_refused(value):
    with pytest.raises(RuntimeError) as caught:
        hs.spectrum(hs.as_operator(lambda V: V * value, 3))
    assert str(caught.value) == (
        "the matrix has entries that are NaN or infinite; hs.check_problem names the cause."
    )


def test_sums_of_powers_and_both_ends_are_compared_with_the_matrix():
    torch.manual_seed(0)
    B = torch.randn(300, 300, dtype=torch.float64)
    found = hs.spectrum(hs.as_operator(B + B.T))
    assert set(found.identities) == {
        "trace", "squares", "cubes", "λmax by Lanczos", "λmin by Lanczos"
    }  # fmt: skip
    assert max(found.identities.values()) < 1e-6  # residuals of 1e-3 err by their squares
    assert max(found.identities[name] for name in ("trace", "squares", "cubes")) < 1e-13
    assert "relative errors of identities: trace" in str(found)


def test_a_wrong_matrix_does_not_pass_the_identities():
    class Wrong(hs.SymmetricOperator):
        def matmat(self, V):
            return torch.linspace(0, 1, 300, dtype=torch.float64)[:, None] * V

        def to_dense(self, *, chunk=64):
            return torch.diag(torch.linspace(0, 2, 300, dtype=torch.float64))

    found = hs.spectrum(Wrong(300, dtype=torch.float64))
    assert found.identities["λmax by Lanczos"] > 0.4


@pytest.mark.parametrize("same", [True, False])
def test_a_killed_spectrum_resumes_after_the_assembly(same, tmp_path, monkeypatch):
    """The kept matrix is used again by the same operator only."""
    assembled = []

    class Slow(hs.SymmetricOperator):
        def __init__(self, factor):
            super().__init__(5, dtype=torch.float64)
            self.factor = factor

        def matmat(self, V):
            return self.factor * V

        def to_dense(self, *, chunk=64):
            assembled.append(self.factor)
            return self.factor * torch.eye(5, dtype=torch.float64)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dense, "_eigenvalues", killed)
        with pytest.raises(KeyboardInterrupt):
            hs.spectrum(Slow(2.0), scratch=tmp_path / "s")
    factor = 2.0 if same else 3.0
    found = hs.spectrum(Slow(factor), scratch=tmp_path / "s")
    assert torch.equal(found.eigenvalues, torch.full((5,), factor, dtype=torch.float64))
    assert assembled == ([2.0] if same else [2.0, 3.0])
    assert not list((tmp_path / "s").iterdir())


class Counted(hs.SymmetricOperator):
    """A random matrix that says how often it was assembled."""

    def __init__(self, n=150):
        super().__init__(n, dtype=torch.float64)
        B = torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.matrix, self.assembled = B + B.T, 0

    def matmat(self, V):
        return self.matrix @ V

    def to_dense(self, *, chunk=64):
        self.assembled += 1
        return self.matrix.clone()


@pytest.fixture
def large(monkeypatch):
    """Everything counts as large, and is kept at every pause."""
    monkeypatch.setattr(dense, "LARGE", 1)
    monkeypatch.setattr(Scratch, "save_now_and_then", Scratch.save)
    return monkeypatch


def killed_once(patch, folder, **arguments):
    """A spectrum that is killed after the first panel."""
    reduce = dense.banded.reduce_to_band

    def killed(matrix, width, *, start, pause):
        def then(column):
            pause(column)
            raise KeyboardInterrupt

        reduce(matrix, width, start=start, pause=then)

    with patch.context() as inside:
        inside.setattr(dense.banded, "reduce_to_band", killed)
        with pytest.raises(KeyboardInterrupt):
            hs.spectrum(Counted(), scratch=folder, **arguments)


def test_a_killed_reduction_goes_on_where_it_was(large, tmp_path):
    truth, seen, A = hs.spectrum(Counted()), [], Counted()
    killed_once(large, tmp_path)
    with hs.listening(lambda label, *_: seen.append(label)):
        found = hs.spectrum(A, scratch=tmp_path)
    assert torch.allclose(found.eigenvalues, truth.eigenvalues, rtol=0, atol=2 * truth.error)
    assert (A.assembled, found.identities.keys()) == (0, truth.identities.keys())
    assert max(found.identities[name] for name in ("trace", "squares", "cubes")) < 1e-13
    assert seen[0] == "exact spectrum: kept matrix read again"
    assert "exact spectrum: third moment" not in seen  # it was kept, too
    assert not list(tmp_path.iterdir())


def test_lapack_finishes_what_two_stages_began(large, tmp_path):
    """Say, when there is more memory than before: the lower triangle is all of the matrix."""
    A = Counted()
    killed_once(large, tmp_path)
    large.setattr(dense, "LARGE", 10**9)
    found = hs.spectrum(A, scratch=tmp_path)
    assert A.assembled == 0
    assert np.abs(found.eigenvalues.numpy() - np.linalg.eigvalsh(A.matrix)).max() <= 2 * found.error


@pytest.mark.parametrize(("before", "after", "assembled"), [(False, True, 1), (True, False, 0)])
def test_what_was_begun_without_checks_is_not_gone_on_with_if_checks_are_wanted(
    large, tmp_path, before, after, assembled
):
    A = Counted()
    killed_once(large, tmp_path, check=before)
    found = hs.spectrum(A, scratch=tmp_path, check=after)
    assert ("cubes" in found.identities, A.assembled) == (after, assembled)
    assert np.abs(found.eigenvalues.numpy() - np.linalg.eigvalsh(A.matrix)).max() < 1e-12


def test_a_matrix_in_another_order_is_kept_and_reduced_as_well(large, tmp_path):
    class Transposed(Counted):
        def to_dense(self, *, chunk=64):
            return super().to_dense(chunk=chunk).T

    truth = np.linalg.eigvalsh(Counted().matrix)
    found = hs.spectrum(Transposed(), scratch=tmp_path)
    assert np.abs(found.eigenvalues.numpy() - truth).max() < 1e-12
    assert torch.equal(Transposed().matrix, Counted().matrix)


def test_two_stages_and_lapack_agree(large):
    in_stages = hs.spectrum(Counted())
    large.setattr(dense, "LARGE", 10**9)
    by_lapack = hs.spectrum(Counted())
    difference = (in_stages.eigenvalues - by_lapack.eigenvalues).abs().max()
    assert 0 < difference <= in_stages.error + by_lapack.error


def test_a_matrix_whose_copy_does_not_fit_is_reduced_in_place(monkeypatch):
    """There is room for the matrix, and then for no second one."""
    free = iter([int(1.2 * 8 * 150**2), int(0.2 * 8 * 150**2)])
    monkeypatch.setattr(dense, "available_bytes", lambda device: next(free))
    monkeypatch.setattr(torch.linalg, "eigvalsh", None)
    found = hs.spectrum(Counted(), check=False)
    assert np.abs(found.eigenvalues.numpy() - np.linalg.eigvalsh(Counted().matrix)).max() < 1e-12


PEAK = """
import sys, torch, hesscope as hs
from pathlib import Path
from hesscope.dense import spectrum as dense

class Diagonal(hs.SymmetricOperator):
    def matmat(self, V):
        return torch.linspace(-1, 3, self.n, dtype=torch.float64)[:, None] * V
    def to_dense(self, *, chunk=64):
        M = torch.zeros(self.n, self.n, dtype=torch.float64)
        M.diagonal().copy_(torch.linspace(-1, 3, self.n))
        return M

def memory(name):
    return int(Path("/proc/self/status").read_text().split(name)[1].split()[0]) * 1024

dense.LARGE, dense.BLOCK = 1, 256
hs.spectrum(Diagonal(300, dtype=torch.float64))  # what is imported and started on the way
before = memory("VmRSS:")
hs.spectrum(Diagonal(3_000, dtype=torch.float64), scratch=sys.argv[1])
print((memory("VmHWM:") - before) / (8 * 3_000**2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_one_matrix_is_all_the_memory_that_a_large_spectrum_needs(tmp_path):
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(run.stdout) < 1.5  # and blocks of 256 rows, panels of 64 columns


def test_saving_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    """Not more than once a minute, and a twentieth of the time at most."""
    clock, saved = [0.0], []
    monkeypatch.setattr(scratch.time, "monotonic", lambda: clock[0])
    A = Counted(5)
    keeper = Scratch(tmp_path, A, A.spectral_form())

    def save(*_):
        saved.append(clock[0])
        clock[0] += 30  # as long as a saving takes

    monkeypatch.setattr(scratch.files, "replace", save)
    work = Work(A.matrix)
    for _ in range(300):
        clock[0] += 10
        keeper.save_now_and_then(work)
    assert saved[0] == 70
    assert all(later - former > 20 * 30 for former, later in pairwise(saved))
    assert saved[-1] > 2_600


def test_the_forecast_follows_from_rows_and_the_speed_of_products():
    seen = []
    hs.spectrum(Counted(), announce=seen.append)
    assert seen == ["exact spectrum: 150 rows, 180 kB, about 0 s after assembly"]
    form = SpectralForm(40_000, lambda: torch.empty(0), "")
    assert dense.forecast(form, 60e9) == (
        "exact spectrum: 40000 rows, 12.8 GB, about 65 min after assembly"
    )

"""The diagonal: unbiased, with an error that is near the true one, and exact where it can be."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

import hesscope as hs
from tests.spectra import FAMILIES, family
from tests.trained import hessian_spectrum

FAR = 1000  # seeds so far apart share no signs


def matrix(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A dense matrix with these eigenvalues in random directions."""
    generator = torch.Generator().manual_seed(seed)
    n = len(values)
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    M = (Q * values) @ Q.T
    return (M + M.T) / 2


def errors(M: torch.Tensor, num_matvecs: int, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """(runs, n) errors of the values, and the (runs,) errors that were stated."""
    A = hs.as_operator(M)
    found = [hs.diagonal(A, num_matvecs, seed=FAR * seed) for seed in range(runs)]
    wrong = np.array([(d.values - M.diagonal().double()).numpy() for d in found])
    return wrong, np.array([d.error for d in found])


def hutchinson(M: torch.Tensor, num_matvecs: int, runs: int) -> float:
    """Root mean square error of the mean of z∘Mz over random signs z."""
    squares = []
    for seed in range(runs):
        generator = torch.Generator().manual_seed(seed)
        Z = 1 - 2 * torch.randint(2, (len(M), num_matvecs), generator=generator).double()
        squares.append(float(((Z * (M @ Z)).mean(1) - M.diagonal()).square().sum()))
    return math.sqrt(np.mean(squares))


@pytest.mark.parametrize("num_matvecs", [10, 40])
@pytest.mark.parametrize("kind", FAMILIES)
def test_values_are_unbiased_and_the_stated_error_is_near_the_true_one(kind, num_matvecs):
    runs = 40
    wrong, stated = errors(matrix(family(kind, 150)), num_matvecs, runs)
    z = wrong.mean(0) / (wrong.std(0, ddof=1) / math.sqrt(runs))
    assert np.abs(z).max() <= 5  # of 150 entries at once, with 40 runs
    assert np.mean(z**2) <= 1 + 5 * math.sqrt(2 / 20)  # at least 20 independent directions
    true = math.sqrt((wrong**2).sum(1).mean())
    assert true / 2 <= math.sqrt(np.mean(stated**2)) <= 2 * true


@pytest.mark.parametrize(("n", "num_matvecs"), [(3, 4), (4, 6), (6, 10)])
def test_signs_that_repeat_neither_bias_the_values_nor_hide_the_error(n, num_matvecs):
    """Two signs of three entries agree up to a factor once in four times."""
    runs = 600
    M = matrix(torch.linspace(3, -1, n).double()) + 0.5
    wrong, stated = errors(M, num_matvecs, runs)
    z = wrong.mean(0) / np.maximum(wrong.std(0, ddof=1) / math.sqrt(runs), 1e-12)
    assert np.abs(z).max() <= 4
    true = math.sqrt((wrong**2).sum(1).mean())
    assert true / 2 <= math.sqrt(np.mean(stated**2)) <= 2 * true


@pytest.mark.parametrize(("name", "gain"), [("nn", 5), ("late", 5), ("sing", 5)])
def test_decaying_spectra_are_known_five_times_better_than_by_plain_probes(name, gain):
    values = hessian_spectrum("late") if name == "late" else family(name, 300)
    M = matrix(values)
    wrong, _ = errors(M, 60, 6)
    assert math.sqrt((wrong**2).sum(1).mean()) <= hutchinson(M, 60, 6) / gain


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_two_products_per_column_give_the_diagonal_itself(n, dtype):
    M = matrix(torch.randn(n).double()).to(dtype)
    found = hs.diagonal(hs.as_operator(M), max(2 * n, 4))
    assert (found.values == M.diagonal().double()).all()
    assert (found.error, found.num_matvecs) == (0.0, n)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rank", [0, 1, 5, 9])
def test_operators_of_low_rank_are_exact(rank, dtype):
    values = torch.zeros(80).double()
    values[:rank] = torch.linspace(4, -3, rank).double() if rank > 1 else 4.0
    M = matrix(values).to(dtype)
    found = hs.diagonal(hs.as_operator(M), 20)
    noise = 100 * torch.finfo(dtype).eps * 4
    assert (found.values - M.diagonal()).abs().max() <= noise
    assert found.error <= 20 * noise
    assert found.num_matvecs <= 20


def test_products_are_as_many_as_asked_for():
    M, columns = matrix(family("nn", 100)), []

    def matmat(V):
        columns.append(V.shape[1])
        return M @ V

    for num_matvecs in (4, 10, 50):
        columns.clear()
        found = hs.diagonal(hs.as_operator(matmat, 100), num_matvecs)
        assert found.num_matvecs == sum(columns) == num_matvecs


def test_units_change_nothing_but_units_and_the_seed_fixes_the_bits():
    M = matrix(family("sing", 100))
    one = hs.diagonal(hs.as_operator(M), 20, seed=4)
    again = hs.diagonal(hs.as_operator(M), 20, seed=4)
    assert bool((one.values == again.values).all())
    for scale in (1e-12, 1e12):
        other = hs.diagonal(hs.as_operator(scale * M), 20, seed=4)
        assert other.values.numpy() == pytest.approx(scale * one.values.numpy(), rel=1e-8)
        assert other.error == pytest.approx(scale * one.error, rel=1e-8)


def test_a_diagonal_prints_its_range_and_how_well_it_is_known():
    found = hs.diagonal(hs.as_operator(torch.diag(torch.tensor([3.0, 4.0, 0.0]).double())), 8)
    assert str(found) == ("diagonal of 3 entries from 0 to 4, 2-norm 5 known to 0.0% (3 matvecs)")


@pytest.mark.parametrize("num_matvecs", [3, 2, 0, 7])
def test_odd_or_too_few_products_are_refused(num_matvecs):
    message = f"max_matvecs={num_matvecs} must be even and at least 4: half goes to each side."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.diagonal(hs.as_operator(torch.eye(30)), num_matvecs)


def test_a_product_that_is_not_finite_is_refused():
    message = (
        "a product of the operator with a finite vector is NaN or infinite; "
        "hs.check_problem names the cause."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        hs.diagonal(hs.as_operator(lambda V: V * math.nan, 30), 10)

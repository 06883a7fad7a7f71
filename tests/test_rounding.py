"""Rounding has one home, its formulas are what they say; sizes at the ends of floats are told."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

import hesscope as hs
from hesscope import rounding
from tests.spectra import Known, family

SOURCES = sorted((Path(__file__).parents[1] / "src").rglob("*.py"))
EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


def test_no_other_file_asks_for_the_limits_of_a_dtype():
    assert len(SOURCES) > 100
    asking = [path.name for path in SOURCES if re.search(r"\bfinfo\(", path.read_text("utf-8"))]
    assert asking == ["rounding.py"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_formulas_are_multiples_of_eps(dtype):
    eps = EPS[dtype]
    assert rounding.eps(dtype) == eps
    for found, expected in (
        (rounding.stored(dtype, 3.0), 1.5 * eps),
        (rounding.recomputed(dtype), 1000 * eps),
        (rounding.half_the_digits(dtype) ** 2, eps),
        (rounding.product_noise(dtype, 3.0), 12 * eps),
        (rounding.product_noise(dtype, 3.0, asymmetry=0.5), 12 * eps + 1.5),
        (rounding.breakdown(dtype, 3.0), 300 * eps),
        (rounding.settled(dtype, 3.0), 12 * eps),
        (rounding.product_tolerance(dtype, 1), 100 * eps),
        (rounding.product_tolerance(dtype, 40_000), 2000 * eps),
        (rounding.dense_eigenvalue(dtype, 9, 2.0, in_two_stages=False), 30 * eps),
        (rounding.dense_eigenvalue(dtype, 9, 2.0, in_two_stages=True), 60 * eps),
        (rounding.block_eigenvalue(dtype, 2.0), 2 * eps),
        (rounding.rank_threshold(dtype, 7, 2.0), 14 * eps),
        (rounding.loss_noise(dtype, -2.0), 20 * eps),
        (rounding.loss_change_noise(dtype, 2.0), 16 * eps),
        (rounding.sag_noise(dtype, 2.0), 32 * eps),
        (rounding.gradient_noise(dtype, 2.0, 3.0), 60 * eps),
        (rounding.gradient_change_noise(dtype, 2.0), 200 * eps),
    ):
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("formula", [rounding.product_noise, rounding.breakdown])
def test_noise_is_never_more_than_the_operator_nor_less_than_squares_lose(formula):
    for size in (0.0, 1e-320, 1e-200, 1e-154):
        assert formula(torch.float64, size) == min(size, rounding.LOST)
    assert formula(torch.float64, 1e-100) < 1e-113


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-160, 1e160, 1e290])
def test_an_operator_whose_squares_are_no_numbers_is_as_any_other(scale):
    exact = scale * torch.arange(1.0, 41.0).double()
    A = hs.as_operator(torch.diag(exact))
    pairs = hs.eigsh(A, 2)
    assert pairs.certificate.complete
    assert pairs.eigenvalues.tolist() == pytest.approx([40 * scale, 39 * scale], rel=1e-5, abs=0)
    for i in range(2):
        assert any(scale * k in pairs.interval(i) for k in range(1, 41))
        assert 0 < float(pairs.residuals[i]) < 0.1 * scale
    density = hs.spectral_density(A, 20)
    assert 20 in density.count(low=20.5 * scale)
    assert density.lower <= scale
    assert density.upper >= 40 * scale
    assert float(exact.sum()) in hs.trace(A, rtol=0.1).interval(0.9999)
    assert scale * math.sqrt(40 * 41 * 81 / 6) in hs.frobenius_norm(A, max_matvecs=20).interval(
        0.9999
    )
    assert hs.diagonal(A, 10).error < 100 * scale
    assert 0.9 * scale < hs.conditioning(A).lambda_min.high < 1.1 * scale
    assert hs.logdet(A, scale).interval(0.999).width < 10
    assert hs.effective_dimension(A, scale).interval(0.999).low > 30
    assert hs.trace_function(A, lambda x: x / scale).value == pytest.approx(820, rel=0.1)


@pytest.mark.parametrize("value", [5e-324, 1e-310, 1e-160, 1e160, 1e300, 1.7e308])
def test_one_row_of_any_size_ends_within_its_products(value):
    A = hs.as_operator(torch.tensor([[value]], dtype=torch.float64))
    pairs = hs.eigsh(A, 1, max_matvecs=3)
    assert pairs.eigenvalues.tolist() == [value]
    assert pairs.num_matvecs <= 3


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e30, 1e36])
def test_single_precision_of_any_size_is_as_any_other(scale):
    A = hs.as_operator(scale * torch.diag(torch.arange(1.0, 41.0)))
    pairs = hs.eigsh(A, 2)
    assert pairs.eigenvalues.tolist() == pytest.approx([40 * scale, 39 * scale], rel=1e-4, abs=0)
    assert 820 * scale in hs.trace(A, rtol=0.1).interval(0.9999)


@pytest.mark.parametrize("scale", [1e-300, 1e-130, 1.0, 1e130, 1e300])
def test_the_exact_spectrum_and_its_identities_hold_at_every_size(scale):
    exact = torch.arange(1.0, 41.0).double() * scale
    found = hs.spectrum(hs.as_operator(torch.diag(exact)))
    assert ((found.eigenvalues - exact).abs() <= found.error).all()
    assert found.identities["trace"] < 1e-14
    assert all(math.isfinite(error) for error in found.identities.values())
    assert found.identities["cubes"] < 1e-14
    assert found.frobenius_norm / scale == pytest.approx(math.sqrt(40 * 41 * 81 / 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_far_from_one_change_nothing_in_traces(dtype):
    far = 1e-30 if dtype == torch.float32 else 1e-120
    near = hs.trace(Known(family("nn", 300), dtype=dtype))
    found = hs.trace(Known(far * family("nn", 300), dtype=dtype))
    assert found.value / far == pytest.approx(near.value, rel=1e-3)
    assert found.stderr / far == pytest.approx(near.stderr, rel=0.5)

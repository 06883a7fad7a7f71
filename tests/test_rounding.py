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


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-160])
def test_an_operator_whose_squares_vanish_is_all_noise_and_says_so(scale):
    A = hs.as_operator(scale * torch.diag(torch.arange(1.0, 41.0).double()))
    pairs = hs.eigsh(A, 2)
    assert not pairs.certificate.complete
    for i in range(2):
        assert any(scale * k in pairs.interval(i) for k in range(1, 41))
    density = hs.spectral_density(A, 20)
    assert 20 in density.count(low=20.5 * scale)
    for ask in (hs.trace, hs.frobenius_norm, lambda A: hs.diagonal(A, 10)):
        with pytest.raises(RuntimeError, match=r"of float64; take a multiple, 1e\+100 \* A\.$"):
            ask(A)


@pytest.mark.parametrize("scale", [1e160, 1e290])
def test_an_operator_whose_squares_overflow_is_refused_with_the_way_on(scale):
    A = hs.as_operator(scale * torch.diag(torch.arange(1.0, 41.0).double()))
    asks = (hs.eigsh, hs.trace, hs.frobenius_norm, lambda A: hs.diagonal(A, 10), hs.conditioning)
    for ask in (*asks[:4], lambda A: hs.spectral_density(A, 20)):
        with pytest.raises(RuntimeError, match=r"of float64; take a multiple, 1e-100 \* A\.$"):
            ask(A)


@pytest.mark.parametrize("scale", [1e-300, 1e-130, 1.0, 1e130, 1e300])
def test_the_exact_spectrum_and_its_identities_hold_at_every_size(scale):
    exact = torch.arange(1.0, 41.0).double() * scale
    found = hs.spectrum(hs.as_operator(torch.diag(exact)))
    assert ((found.eigenvalues - exact).abs() <= found.error).all()
    assert found.identities["trace"] < 1e-14
    assert all(math.isfinite(error) for error in found.identities.values())
    assert ("cubes" in found.identities) == (scale == 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_far_from_one_change_nothing_in_traces(dtype):
    far = 1e-30 if dtype == torch.float32 else 1e-120
    near = hs.trace(Known(family("nn", 300), dtype=dtype))
    found = hs.trace(Known(far * family("nn", 300), dtype=dtype))
    assert found.value / far == pytest.approx(near.value, rel=1e-3)
    assert found.stderr / far == pytest.approx(near.stderr, rel=0.5)

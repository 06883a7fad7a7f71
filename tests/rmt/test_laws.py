"""The two laws against numerical integration, Catalan and Narayana numbers, and matrices drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kstest

from hesscope.rmt import MarchenkoPastur, Semicircle

QUADRATURE = 1e-7  # asked of QUADPACK; the densities have square-root edges
RATIOS = st.floats(0.05, 5.0).filter(lambda ratio: abs(ratio - 1) > 0.02)


def integral(law, power: int = 0, upto: float | None = None) -> float:
    """∫ x^power density, with the edges made smooth by x = middle - half·cos φ."""
    a, b = law.edges
    middle, half = (a + b) / 2, (b - a) / 2
    end = math.pi if upto is None else math.acos(min(max((middle - upto) / half, -1), 1))

    def integrand(phi: float) -> float:
        x = middle - half * math.cos(phi)
        return x**power * float(law.density(x)) * half * math.sin(phi)

    return quad(integrand, 0, end, epsabs=QUADRATURE, epsrel=QUADRATURE, limit=200)[0]


@settings(max_examples=25, deadline=None)
@given(sigma=st.floats(0.1, 10), centre=st.floats(-5, 5), share=st.floats(0, 1))
def test_the_semicircles_cdf_is_the_integral_of_its_density(sigma, centre, share):
    law = Semicircle(sigma, centre)
    a, b = law.edges
    x = a + share * (b - a)
    assert float(law.cdf(x)) == pytest.approx(integral(law, upto=x), abs=10 * QUADRATURE)
    assert float(law.cdf(b)) == pytest.approx(1, abs=1e-12)
    assert float(law.cdf(a - 1)) == float(law.density(a - 1)) == float(law.density(b + 1)) == 0


@pytest.mark.parametrize(("power", "catalan"), [(0, 1), (2, 1), (4, 2), (6, 5), (8, 14)])
def test_even_moments_of_the_semicircle_are_catalan_numbers(power, catalan):
    assert integral(Semicircle(), power) == pytest.approx(catalan, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(ratio=RATIOS, variance=st.floats(0.1, 10), share=st.floats(0, 1))
def test_marchenko_pasturs_cdf_is_the_integral_of_its_density(ratio, variance, share):
    law = MarchenkoPastur(ratio, variance)
    a, b = law.edges
    x = a + share * (b - a)
    expected = max(0, 1 - 1 / ratio) + integral(law, upto=x)
    assert float(law.cdf(x)) == pytest.approx(expected, abs=20 * QUADRATURE)
    assert float(law.cdf(b)) == pytest.approx(1, abs=1e-9)
    assert float(law.cdf(-1e-9)) == 0
    assert float(law.cdf(0.0)) == pytest.approx(law.zeros, abs=1e-12)


@pytest.mark.parametrize("ratio", [0.2, 1.0, 3.0])
def test_moments_of_marchenko_pastur_are_narayana_polynomials(ratio):
    law = MarchenkoPastur(ratio, 2.0)
    y = ratio
    for power, expected in enumerate((1, 1 + y, 1 + 3 * y + y**2, 1 + 6 * y + 6 * y**2 + y**3), 1):
        assert integral(law, power) == pytest.approx(2.0**power * expected, rel=1e-5)


def test_a_ratio_of_one_has_its_density_without_an_atom():
    law = MarchenkoPastur(1.0)
    assert law.edges == (0.0, 4.0)
    assert law.zeros == 0
    assert float(law.density(1.0)) == pytest.approx(math.sqrt(3) / (2 * math.pi), rel=1e-12)
    # λ = x² turns it into the quarter circle: the cdf at 1 is that of the semicircle on [-1, 1]
    expected = 2 * float(Semicircle().cdf(1.0)) - 1
    assert float(law.cdf(1.0)) == pytest.approx(expected, rel=1e-12)


def test_samples_have_the_normalisation_of_their_matrices():
    n, runs = 60, 40
    squares = [
        float(Semicircle(0.5, 1.0).sample(n, seed=s).sub(1).square().mean()) for s in range(runs)
    ]
    # E tr W²/n = sigma² (1 + 1/n), with variance (2 sigma²/n)² (1 + 1/n): sums of squared Gaussians
    deviation = 2 * 0.25 / n * math.sqrt((1 + 1 / n) / runs)
    assert abs(np.mean(squares) - 0.25 * (1 + 1 / n)) < 4 * deviation
    p, N = 60, 30
    means = [float(MarchenkoPastur(2.0, 3.0).sample(p, seed=s).mean()) for s in range(runs)]
    assert abs(np.mean(means) - 3) < 4 * 3 * math.sqrt(2 / (p * N) / runs)


def test_samples_of_wide_data_have_exact_zeros():
    values = MarchenkoPastur(4.0).sample(80, seed=1)
    assert int((values == 0).sum()) == 60
    assert float(values[60]) > 0
    assert torch.equal(values, values.sort().values)


@pytest.mark.parametrize("seed", range(5))
def test_fits_recover_the_law_within_their_stated_errors(seed):
    n = 150
    law = Semicircle.fit(Semicircle(0.5, 1.0).sample(n, seed=seed))
    assert abs(law.sigma - 0.5) < 4 * 0.5 / n + 0.25 / n  # and the bias sigma/(2 n)
    assert abs(law.centre - 1) < 4 * math.sqrt(2) * 0.5 / n
    for ratio in (0.5, 2.0):
        fitted = MarchenkoPastur.fit(MarchenkoPastur(ratio, 3.0).sample(n, seed=seed))
        assert abs(fitted.variance - 3) < 4 * 3 * math.sqrt(2 * ratio) / n
        assert abs(fitted.ratio / ratio - 1 - 1 / n) < 8 * (1 + ratio) / n


@pytest.mark.parametrize("law", [Semicircle(2.0, -1.0), MarchenkoPastur(0.4), MarchenkoPastur(3.0)])
def test_matrices_of_a_law_are_near_it_and_those_of_others_are_not(law):
    n = 200
    values = law.sample(n, seed=2)
    assert law.distance(values) < 3 * math.log(n) / n
    heavy = torch.from_numpy(np.random.default_rng(0).standard_t(2, n)).abs()
    assert type(law).fit(heavy).distance(heavy) > 10 * math.log(n) / n


def test_the_distance_is_the_one_of_scipy():
    values = torch.randn(50, dtype=torch.float64)
    law = Semicircle(1.1, 0.2)
    expected = kstest(values.numpy(), lambda x: law.cdf(torch.from_numpy(np.asarray(x))).numpy())
    assert law.distance(values) == pytest.approx(expected.statistic, abs=1e-12)


def test_the_distance_sees_a_wrong_share_of_zeros():
    values = torch.cat([torch.zeros(10), torch.full((100,), 0.5)])  # none on [1, 9]
    assert MarchenkoPastur(4.0).distance(values) == pytest.approx(0.75 - 10 / 110, abs=1e-12)


def test_rounding_instead_of_zeros_does_not_change_the_distance():
    values = MarchenkoPastur(2.0).sample(100)
    noisy = torch.where(values == 0, -1e-17, values)
    assert MarchenkoPastur(2.0).distance(noisy) == MarchenkoPastur(2.0).distance(values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Semicircle(0.0),
            "sigma=0.0 must be positive and finite; 1.0 is the standard choice.",
        ),
        (
            lambda: MarchenkoPastur(-1.0),
            "ratio=-1.0 must be positive and finite; 1.0 is the standard choice.",
        ),
        (
            lambda: MarchenkoPastur(100.0).sample(3),
            "n=3 with ratio=100 leaves no column; give n >= 100.",
        ),
        (lambda: Semicircle().sample(0), "n=0 eigenvalues cannot be drawn; give n >= 1."),
        (
            lambda: Semicircle.fit(torch.ones(4)),
            "all eigenvalues are equal and no law can be fitted; give the whole spectrum.",
        ),
        (
            lambda: MarchenkoPastur.fit(torch.zeros(4)),
            "all eigenvalues are equal and no law can be fitted; give the whole spectrum.",
        ),
        (
            lambda: MarchenkoPastur.fit(torch.tensor([-2.0, 1.0])),
            "the eigenvalues reach -2 and this law has none below zero; compare Semicircle.fit, "
            "or give the spectrum of a Gauss-Newton matrix.",
        ),
        (
            lambda: Semicircle().distance(torch.tensor([math.nan])),
            "1 eigenvalues, or some that are not finite; give a whole spectrum.",
        ),
    ],
)
def test_bad_arguments_are_refused_with_the_cure(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole message is compared
        call()
    assert str(caught.value) == message

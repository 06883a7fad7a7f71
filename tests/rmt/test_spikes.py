"""The BBP map against matrices drawn, and against its inverse."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hesscope.rmt import (
    MarchenkoPastur,
    Semicircle,
    additive_spike,
    additive_strength,
    covariance_spike,
    covariance_strength,
)

N = 500


def wigner(sigma: float, seed: int) -> torch.Tensor:
    A = torch.randn(N, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return sigma * (A + A.T) / math.sqrt(2 * N)


@pytest.mark.parametrize("theta", [1.5, 4.0, -3.0])
def test_an_additive_spike_moves_and_turns_as_predicted(theta):
    sigma = 0.8
    W = wigner(sigma, seed=1)
    W[0, 0] += theta
    values, vectors = torch.linalg.eigh(W)
    end = -1 if theta > 0 else 0
    spike = additive_spike(theta, sigma)
    # fluctuations: √2 sigma √(1 - sigma²/theta²)/√n (Capitaine et al. 2009), the diagonal's
    assert abs(float(values[end]) - spike.after) < 4 * math.sqrt(2) * sigma / math.sqrt(N)
    assert abs(float(vectors[0, end] ** 2) - spike.overlap) < 4 / math.sqrt(N)
    assert spike.stands_out


def test_a_weak_additive_spike_leaves_no_outlier():
    W = wigner(1.0, seed=2)
    W[0, 0] += 0.5
    spike = additive_spike(0.5)
    values, vectors = torch.linalg.eigh(W)
    assert (spike.after, spike.overlap, spike.stands_out) == (2.0, 0.0, False)
    # the edge fluctuates on the scale n^{-2/3} (Tracy and Widom 1996)
    assert abs(float(values[-1]) - 2) < 5 * N ** (-2 / 3)
    assert float(vectors[0, -1] ** 2) < 0.1
    assert str(spike) == "0.5 is lost in the noise, whose edge is 2"


@pytest.mark.parametrize(("population", "ratio"), [(4.0, 0.5), (8.0, 2.0), (3.0, 0.1)])
def test_a_covariance_spike_moves_and_turns_as_predicted(population, ratio):
    p = 400
    num = round(p / ratio)
    X = torch.randn(p, num, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    X[0] *= math.sqrt(population)
    values, vectors = torch.linalg.eigh(X @ X.T / num)
    spike = covariance_spike(population, ratio)
    assert abs(float(values[-1]) - spike.after) < 4 * population * math.sqrt(2 / num)
    assert abs(float(vectors[0, -1] ** 2) - spike.overlap) < 4 / math.sqrt(p)


@given(theta=st.floats(1.001, 100), sigma=st.floats(0.01, 10), sign=st.sampled_from((-1, 1)))
def test_the_additive_map_is_inverted(theta, sigma, sign):
    theta *= sigma * sign
    assert additive_strength(additive_spike(theta, sigma).after, sigma).before == pytest.approx(
        theta, rel=1e-6
    )


@given(excess=st.floats(1.01, 100), ratio=st.floats(0.01, 10), variance=st.floats(0.01, 10))
def test_the_covariance_map_is_inverted(excess, ratio, variance):
    population = variance * (1 + excess * math.sqrt(ratio))
    after = covariance_spike(population, ratio, variance).after
    assert covariance_strength(after, ratio, variance).before == pytest.approx(population, rel=1e-6)


@given(ratio=st.floats(0.01, 10), variance=st.floats(0.01, 10))
def test_at_the_threshold_the_outlier_meets_the_edge_of_the_law(ratio, variance):
    population = variance * (1 + math.sqrt(ratio) * (1 + 1e-9))
    spike = covariance_spike(population, ratio, variance)
    assert spike.after == pytest.approx(MarchenkoPastur(ratio, variance).edges[1], rel=1e-6)
    assert spike.overlap < 1e-6
    assert additive_spike(variance, variance).after == Semicircle(variance).edges[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: additive_spike(1.0, sigma=0.0),
            "sigma=0.0 must be positive and finite; 1.0 is the standard choice.",
        ),
        (
            lambda: additive_strength(1.5),
            "eigenvalue=1.5 does not exceed the edge 2 of the noise, so no spike can be read from "
            "it; only outliers have one.",
        ),
        (
            lambda: covariance_strength(3.9, ratio=1.0),
            "eigenvalue=3.9 does not exceed the edge 4 of the noise, so no spike can be read from "
            "it; only outliers have one.",
        ),
        (
            lambda: covariance_spike(0.5, ratio=1.0),
            "population=0.5 lies below variance=1; spikes lie above.",
        ),
    ],
)
def test_bad_arguments_are_refused_with_the_cure(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole message is compared
        call()
    assert str(caught.value) == message

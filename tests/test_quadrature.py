"""Quadrature rules are exact where they say so, and their bounds hold for every measure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hesscope.krylov.basis import Basis
from hesscope.krylov.lanczos import Lanczos, random_start
from hesscope.quadrature import Range, gauss, mass_bounds, radau, rank_range
from tests.spectra import Known, random_eigenvalues

EPS = np.finfo(float).eps


def measure(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n places in [-1, 1] that are well apart, and masses that add up to one."""
    rng = np.random.default_rng(seed)
    places = -1 + 2 * (np.arange(n) + rng.uniform(0.2, 0.8, n)) / n
    return places, rng.dirichlet(np.full(n, 2.0))


def recurrence(places: np.ndarray, masses: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """alpha, beta of the polynomials orthogonal with respect to the measure (Stieltjes 1884).

    Polynomials are vectors of values at the places; each is orthogonalised against all before it.
    """
    alpha, beta, Q = [], [], [np.ones(len(places))]
    for _ in range(m):
        following = places * Q[-1]
        alpha.append(following @ (masses * Q[-1]))
        for _ in range(2):
            for q in Q:
                following = following - (following @ (masses * q)) * q
        beta.append(math.sqrt(following @ (masses * following)))
        Q.append(following / beta[-1])
    return np.array(alpha), np.array(beta)


def moment(nodes: np.ndarray, weights: np.ndarray, degree: int) -> float:
    """∫ T_k dμ with a Chebyshev polynomial, which is at most 1 on [-1, 1]."""
    return float(weights @ np.polynomial.Chebyshev.basis(degree)(nodes))


# --- rules


@settings(max_examples=50, deadline=None)
@given(n=st.integers(3, 40), seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_a_gauss_rule_is_exact_to_degree_2m_minus_1(n, seed, share):
    places, masses = measure(n, seed)
    m = 1 + int(share * min(n - 2, 14))
    nodes, weights = gauss(*recurrence(places, masses, m))
    assert (np.diff(nodes) > 0).all()
    assert weights.sum() == pytest.approx(1.0, abs=10 * EPS * m)
    for degree in range(2 * m):
        error = moment(nodes, weights, degree) - moment(places, masses, degree)
        assert abs(error) <= 100 * EPS * m * (degree + 1) ** 2  # the slope of T_k is k² at most


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(4, 40),
    seed=st.integers(0, 10_000),
    share=st.floats(0, 1),
    x=st.floats(-1, 1),
)
def test_a_radau_rule_has_its_node_and_is_exact_to_degree_2m(n, seed, share, x):
    places, masses = measure(n, seed)
    m = 1 + int(share * min(n - 3, 12))
    alpha, beta = recurrence(places, masses, m)
    nodes, weights = radau(alpha, beta, x)
    at = int(np.abs(nodes - x).argmin())
    assert abs(nodes[at] - x) <= 100 * EPS * m
    if (np.abs(nodes) > 1).any():
        return  # beside a Ritz value one node is far out, with next to no mass
    for degree in range(2 * m + 1):
        error = moment(nodes, weights, degree) - moment(places, masses, degree)
        assert abs(error) <= 100 * EPS * m * (degree + 1) ** 2


def test_the_rule_of_all_places_is_the_measure_itself():
    places, masses = measure(8, 0)
    nodes, weights = gauss(*recurrence(places, masses, 8))
    assert np.abs(nodes - places).max() <= 1e3 * EPS
    assert np.abs(weights - masses).max() <= 1e3 * EPS


# --- masses


def true_masses(places: np.ndarray, masses: np.ndarray, x: float) -> tuple[float, float]:
    return float(masses[places < x].sum()), float(masses[places <= x].sum())


def thresholds(places: np.ndarray, ritz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Anywhere, on places, at and beside Ritz values, and beyond both ends."""
    beside = np.concatenate([ritz * (1 + s * d) for d in (1e-15, 1e-12, 1e-6) for s in (-1, 1)])
    ends = [places[0] - 1, places[-1] + 1, -1e9, 1e9]
    return np.concatenate([rng.uniform(-1.2, 1.2, 20), places, ritz, beside, ends])


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 40), seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_the_bounds_hold_the_mass_below_and_up_to_every_threshold(n, seed, share):
    places, masses = measure(n, seed)
    alpha, beta = recurrence(places, masses, 1 + int(share * min(n - 2, 20)))
    ritz, _ = gauss(alpha, beta)
    for x in thresholds(places, ritz, np.random.default_rng(seed)):
        low, high = mass_bounds(alpha, beta, float(x))
        below, up_to = true_masses(places, masses, x)
        # x and the rule are known to rounding: a place that near may count or not
        slack = 1e-9 + masses[np.abs(places - x) <= 1e-13 * max(1, abs(x))].sum()
        assert 0 <= low <= high <= 1
        assert low <= below + slack
        assert up_to <= high + slack


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 50), seed=st.integers(0, 100_000), steps=st.integers(1, 20))
def test_the_bounds_of_a_lanczos_run_hold_the_mass_of_its_start(n, seed, steps):
    """Thresholds by a rounding error to either side: the run is that of a matrix so far away."""
    A = Known(random_eigenvalues(n, seed))
    start = random_start(A, Basis(A), seed)
    run = Lanczos(A, start, Basis(A))
    while not run.exhausted and run.num_steps < steps:
        run.step()
    values = A.eigenvalues.numpy()
    masses = (start.vector**2 / start.vector.square().sum()).numpy()
    noise = 20 * EPS * np.abs(values).max()
    # Its eigenvectors are turned against these by noise/gap (Davis and Kahan), and the mass of a
    # pair whose eigenvalues stand on both sides of x moves by twice that at most.
    gaps = np.diff(np.unique(values))
    moved = 1e-9 + 2 * noise / gaps.min() if len(gaps) else 1e-9
    rng = np.random.default_rng(seed)
    between = rng.uniform(values.min() - 1, values.max() + 1, 10)
    for x in np.concatenate([values, run.ritz()[0], between]):
        low, _ = mass_bounds(run.alpha, run.beta, float(x - noise))
        _, high = mass_bounds(run.alpha, run.beta, float(x + noise))
        assert low <= masses[values < x].sum() + moved
        assert masses[values <= x].sum() <= high + moved


def test_more_steps_never_loosen_the_bounds():
    places, masses = measure(30, 1)
    alpha, beta = recurrence(places, masses, 20)
    for x in np.linspace(-0.9, 0.9, 13):
        widths = [np.diff(mass_bounds(alpha[:m], beta[:m], x))[0] for m in range(1, 21)]
        assert (np.diff(widths) <= 1e-10).all()


def test_beyond_both_ends_there_is_no_mass():
    places, masses = measure(20, 2)
    alpha, beta = recurrence(places, masses, 8)
    assert mass_bounds(alpha, beta, -1e6)[0] == 0.0
    assert mass_bounds(alpha, beta, 1e6)[1] == pytest.approx(1.0, abs=100 * EPS)
    below, _ = mass_bounds(alpha, beta, 1e6)
    assert below == pytest.approx(1.0, abs=1e-9)


def test_a_run_that_broke_down_knows_its_masses():
    """diag(0, 0, 1) and a start with equal entries: masses 2/3 and 1/3, and then beta = 0."""
    alpha, beta = [1 / 3, 2 / 3], [math.sqrt(2) / 3, 0.0]
    for x, below, up_to in ((-0.1, 0, 0), (0.0, 0, 2 / 3), (0.5, 2 / 3, 2 / 3), (1.0, 2 / 3, 1)):
        low, high = mass_bounds(alpha, beta, x)
        assert low <= below + 1e-12
        assert up_to <= high + 1e-12
        if x in (-0.1, 0.5):
            assert (low, high) == pytest.approx((below, up_to), abs=1e-12)


def test_the_zero_operator_has_all_its_mass_at_zero():
    for x, expected in ((-1e-300, (0, 0)), (0.0, (0, 1)), (1e-300, (1, 1))):
        assert mass_bounds([0.0], [0.0], x) == expected


# --- ranks


def brute_force(n: int, low: float, high: float, risk: float) -> Range:
    """From the first r that the lower tail allows to the last one that the upper tail allows."""
    enough, few_enough = [], []
    for r in range(n + 1):
        if r in (0, n):
            at_least = 1.0 if r == n or low <= 0 else 0.0
            at_most = 1.0 if r == 0 or high >= 1 else 0.0
        else:
            law = stats.beta(r / 2, (n - r) / 2)
            at_least, at_most = law.sf(low), law.cdf(high)
        enough += [r] if at_least > risk / 2 else []
        few_enough += [r] if at_most > risk / 2 else []
    ends = enough[0], few_enough[-1]
    return Range(min(ends), max(ends))


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 40),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    risk=st.sampled_from([0.001, 0.05, 0.3]),
)
def test_ranks_are_those_that_beta_does_not_exclude(n, ends, risk):
    low, high = sorted(ends)
    assert rank_range(n, low, high, risk) == brute_force(n, low, high, risk)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000, 10**7])
def test_no_mass_is_no_eigenvalue_and_all_mass_is_all(n):
    assert rank_range(n, 0.0, 0.0, 0.05) == Range(0, 0)
    assert rank_range(n, 1.0, 1.0, 0.05) == Range(n, n)
    assert rank_range(n, 0.0, 1.0, 0.05) == Range(0, n)


def test_no_eigenvalues_have_no_rank():
    assert rank_range(0, 0.0, 1.0, 0.05) == Range(0, 0)
    assert rank_range(0, 0.3, 0.4, 0.05) == Range(0, 0)


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 500),
    masses=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    risk=st.sampled_from([0.01, 0.05]),
)
def test_ranks_grow_with_the_masses_and_shrink_with_the_risk(n, masses, risk):
    a, b, c = sorted(masses)
    lower, upper = rank_range(n, a, b, risk), rank_range(n, b, c, risk)
    share = round(a * n) / n  # a mass that some rank is likely to have
    usual, wider = (rank_range(n, share, share, each) for each in (risk, risk / 10))
    assert 0 <= lower.low <= lower.high <= n
    assert lower.low <= upper.low
    assert lower.high <= upper.high
    assert wider.low <= usual.low <= usual.high <= wider.high


@pytest.mark.parametrize(("n", "r"), [(50, 0), (50, 1), (50, 7), (50, 49), (50, 50), (2000, 300)])
def test_known_masses_miss_the_rank_at_most_as_often_as_the_risk(n, r):
    """The law of the mass is Beta; its expected miss rate is summed, not sampled."""
    risk = 0.05
    if r in (0, n):
        found = rank_range(n, r / n, r / n, risk)
        assert found.low <= r <= found.high
        return
    levels = (np.arange(2000) + 0.5) / 2000
    masses = stats.beta(r / 2, (n - r) / 2).ppf(levels)
    hits = [found.low <= r <= found.high for found in (rank_range(n, m, m, risk) for m in masses)]
    assert 1 - np.mean(hits) <= risk + 1 / 2000
    assert 1 - np.mean(hits) >= risk / 2 - 2 / 2000

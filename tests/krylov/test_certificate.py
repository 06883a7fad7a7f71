"""Certificates hold where the start's weight is known, and miss as seldom as they say."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

import hesscope as hs
from hesscope.krylov import certificate
from hesscope.krylov.basis import Basis
from hesscope.krylov.lanczos import Lanczos, Start, mixed_start, random_start
from tests.spectra import Known, family, random_eigenvalues
from tests.tolerances import most_misses, rounding, standard_error


def grown(A: Known, start: Start, steps: int) -> Lanczos:
    run = Lanczos(A, start, Basis(A))
    while not run.exhausted and run.num_steps < steps:
        run.step()
    return run


def weights_and_values(A: Known, start: Start) -> tuple[np.ndarray, np.ndarray]:
    """The distinct eigenvalues, and the weight of the start on each eigenspace."""
    v = A.rotated(start.vector[:, None])[:, 0].double()
    v = (v / v.norm()).numpy()
    values, where = np.unique(A.eigenvalues.numpy(), return_inverse=True)
    return np.bincount(where, v**2), values


# --- law


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 60), seed=st.integers(0, 100_000), steps=st.integers(1, 30))
def test_no_eigenvalue_carries_more_weight_than_the_christoffel_function(n, seed, steps):
    A = Known(random_eigenvalues(n, seed))
    start = random_start(A, Basis(A), seed)
    run = grown(A, start, steps)
    if run.exhausted:
        return  # p_m is rounding noise then
    weights, values = weights_and_values(A, start)
    distance = np.abs(values[:, None] - run.ritz()[0]).min(1)
    away = distance > 1e-3 * np.abs(values).max()  # where Ritz values converge, digits are lost
    slack = 1e-3  # in the logarithm
    bound = -certificate.log_christoffel(run, values[away])
    assert (np.log(weights[away]) <= bound + slack).all()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(3, 60), seed=st.integers(0, 100_000), steps=st.integers(2, 25))
def test_a_true_eigenvalue_is_only_excluded_at_deltas_above_its_own_weight(n, seed, steps):
    """No eigenvalue is excluded at a delta at which its true weight is still expected."""
    A = Known(random_eigenvalues(n, seed))
    start = random_start(A, Basis(A), seed)
    run = grown(A, start, steps)
    if run.exhausted:
        return
    weights, values = weights_and_values(A, start)
    for weight, value in zip(weights, values, strict=True):
        delta = math.sqrt(weight / (math.pi / 2 * run.share))
        step = 1e-9 * max(abs(value), 1e-9)
        assert certificate.risk(run, [(value - step, value + step)]) >= min(1.0, 0.999 * delta)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(5, 60),
    seed=st.integers(0, 100_000),
    steps=st.integers(2, 25),
    left=st.floats(0.01, 0.49),
    right=st.floats(0.51, 0.99),
)
@example(n=30, seed=100_000, steps=17, left=0.25, right=0.75)  # Ritz values 5e-11 apart
def test_the_bound_on_a_gap_is_below_the_values_on_a_fine_grid(n, seed, steps, left, right):
    A = Known(random_eigenvalues(n, seed))
    run = grown(A, random_start(A, Basis(A), seed), steps)
    theta = run.ritz()[0]
    for a, b in pairwise(theta):
        low, high = a + left * (b - a), a + right * (b - a)
        if not a < low < high < b:
            continue
        bound = certificate.risk(run, [(low, high)])
        grid = certificate.log_christoffel(run, np.linspace(low, high, 501)).min()
        at_least = -(grid + math.log(math.pi / 2) + math.log(run.share)) / 2
        assert bound >= min(1.0, math.exp(min(at_least, 0.0)) * (1 - 1e-6))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(5, 60), seed=st.integers(0, 10_000), steps=st.integers(1, 15))
def test_risk_falls_away_from_the_outermost_ritz_values(n, seed, steps):
    A = Known(random_eigenvalues(n, seed))
    run = grown(A, random_start(A, Basis(A), seed), steps)
    theta, size = run.ritz()[0], float(A.eigenvalues.abs().max())
    distances = np.geomspace(1e-6, 10, 30) * size
    up = [certificate.risk(run, [(theta[-1] + d, math.inf)]) for d in distances]
    down = [certificate.risk(run, [(-math.inf, theta[0] - d)]) for d in distances]
    assert up == sorted(up, reverse=True)
    assert down == sorted(down, reverse=True)


@pytest.mark.parametrize("delta", [0.2, 0.01, 1e-6])
def test_the_outer_bounds_sit_where_the_risk_is_delta(delta):
    A = Known(family("nn", 300))
    run = grown(A, random_start(A, Basis(A), 0), 8)
    upper, lower = certificate.upper_bound(run, delta), certificate.lower_bound(run, delta)
    bisection = 1e-9 * (upper - lower)
    for gap, inside in (((upper, math.inf), -1), ((-math.inf, lower), 1)):
        assert certificate.risk(run, [gap]) <= delta
        wider = [end + inside * bisection for end in gap]
        assert certificate.risk(run, [wider]) > delta


@pytest.mark.parametrize("delta", [0.05, 0.2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_step_on_a_rank_one_operator_misses_exactly_as_often_as_delta(delta, dtype):
    """There 1 / (1 + p_1(1)²) is the weight of the eigenvector itself: the bound is sharp."""
    A, runs, misses = Known(torch.eye(200)[0].double(), dtype=dtype), 1000, 0
    for seed in range(runs):
        run = grown(A, random_start(A, Basis(A), seed), 1)
        misses += certificate.upper_bound(run, delta) < 1 - rounding(dtype, 200, 1.0)
    assert abs(misses / runs - delta) <= 3.3 * standard_error(runs, delta)


def test_bounds_scale_with_the_operator():
    A = Known(family("sing", 200))
    run = grown(A, random_start(A, Basis(A), 0), 15)
    for scale in (1e-12, 1e12):
        B = Known(scale * A.eigenvalues)
        other = grown(B, random_start(B, Basis(B), 0), 15)
        expected = scale * certificate.upper_bound(run, 1e-3)
        assert certificate.upper_bound(other, 1e-3) == pytest.approx(expected, rel=1e-9)


def test_no_gaps_and_empty_gaps_have_no_risk_and_a_ritz_value_is_never_excluded():
    A = Known(family("nn", 100))
    run = grown(A, random_start(A, Basis(A), 0), 30)
    theta = run.ritz()[0]
    assert certificate.risk(run, []) == 0.0
    assert certificate.risk(run, [(2.0, 1.0), (1.0, 1.0)]) == 0.0
    assert certificate.risk(run, [(theta[-1] - 1e-9, math.inf)]) == 1.0
    assert certificate.risk(run, [(theta[-1], math.inf)]) == 1.0
    assert certificate.risk(run, [(-math.inf, math.inf)]) == 1.0


def test_the_risk_of_several_gaps_is_the_largest():
    A = Known(family("nn", 200))
    run = grown(A, random_start(A, Basis(A), 1), 25)
    theta = run.ritz()[0]
    gaps = [
        (a + 0.3 * (b - a), b - 0.3 * (b - a))
        for a, b in zip(theta[-6:-1], theta[-5:], strict=True)
    ]
    gaps.append((theta[-1] + 0.1, math.inf))
    single = [certificate.risk(run, [gap]) for gap in gaps]
    assert certificate.risk(run, gaps) == pytest.approx(max(single), rel=1e-12)


def test_after_a_breakdown_only_ritz_values_remain_possible():
    A = Known(torch.tensor([3.0, 3.0, 1.0, 1.0, 1.0, -2.0]).double())
    run = grown(A, random_start(A, Basis(A), 0), 10)
    assert (run.num_steps, run.exhausted) == (3, True)
    for low, high in ((-1.999, 0.999), (1.001, 2.999), (3.001, math.inf), (-math.inf, -2.001)):
        assert certificate.risk(run, [(low, high)]) <= 1e-6
    assert certificate.upper_bound(run, 1e-6) == pytest.approx(3.0, abs=1e-7)


def test_a_breakdown_in_float32_proves_no_more_than_its_rounding():
    """A value that is hidden below the noise of a product is not excluded by that product."""
    values = torch.zeros(10_000).double()
    values[0], values[1] = 1.0, 1e-6
    A = Known(values, dtype=torch.float32)
    locked = Basis(A)
    locked.append(A.eigenvector(0))
    run = Lanczos(A, random_start(A, locked, 0), locked, known_scale=1.0)
    run.step()
    assert run.exhausted
    assert certificate.risk(run, [(5e-7, math.inf)]) > 0.1


# --- closed form


@pytest.mark.parametrize("delta", [0.3, 0.01])
@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_the_weight_floor_is_missed_with_at_most_delta_whatever_the_shift(delta, shift):
    """P((shift + z)² < w) for z standard normal: exact, and sharp for a small delta."""
    w = math.exp(certificate.log_weight_floor(1.0, delta))
    s = math.sqrt(w)
    chance = stats.norm.cdf(s - shift) - stats.norm.cdf(-s - shift)
    assert chance <= delta
    if shift == 0.0:
        assert chance >= delta * (1 - delta)


def test_combined_risks_are_uniform_when_the_single_ones_are():
    rng = np.random.default_rng(0)
    risks = rng.random((4000, 3))
    together = np.sort([certificate.combined(list(row)) for row in risks])
    assert stats.kstest(together, "uniform").pvalue > 1e-3
    assert certificate.combined([]) == 1.0
    assert certificate.combined([0.0, 0.5]) == 0.0
    assert certificate.combined([1.0, 1.0]) == 1.0


# --- honesty

DELTAS = (0.05, 0.2)


def start_for(A: Known, seed: int, kind: str, hidden: int) -> Start:
    """Random, or warm from eigenvectors other than the hidden one, which is the hardest case."""
    if kind == "random":
        return random_start(A, Basis(A), seed)
    warm = A.eigenvector((hidden + 1) % A.n) + 0.3 * A.eigenvector((hidden + 2) % A.n)
    return mixed_start(A, warm, seed, random_part={"tenth": 0.1, "hundredth": 0.01}[kind])


def outer_misses(runs: int, kind: str, delta: float, dtype: torch.dtype) -> tuple[int, int, int]:
    """How often the upper bound, the lower bound, and a gap exclude a fixed eigenvalue."""
    upper = lower = gap = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        n = int(rng.choice([2, 3, 5, 12, 40, 150]))
        A = Known(random_eigenvalues(n, seed), dtype=dtype)
        steps = int(rng.integers(1, 16))
        noise = rounding(dtype, 50, float(A.eigenvalues.abs().max()))
        top = grown(A, start_for(A, seed, kind, 0), steps)
        upper += certificate.upper_bound(top, delta) + noise < float(A.eigenvalues[0])
        bottom = grown(A, start_for(A, seed, kind, n - 1), steps)
        lower += certificate.lower_bound(bottom, delta) - noise > float(A.eigenvalues[-1])
        i = int(rng.integers(n))
        inner, x = grown(A, start_for(A, seed, kind, i), steps), float(A.eigenvalues[i])
        gap += certificate.risk(inner, [(x - noise, x + noise)]) <= delta
    return int(upper), int(lower), int(gap)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("kind", ["random", "tenth", "hundredth"])
def test_bounds_and_gaps_miss_at_most_as_often_as_delta(kind, delta, dtype):
    misses = outer_misses(60, kind, delta, dtype)
    assert max(misses) <= most_misses(60, delta)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("kind", ["random", "tenth", "hundredth"])
def test_bounds_and_gaps_miss_at_most_as_often_as_delta_in_2000_runs(kind, delta, dtype):
    misses = outer_misses(2000, kind, delta, dtype)
    print(f"{kind} {dtype} delta={delta}: upper, lower, gap missed {misses} of 2000")
    assert max(misses) <= most_misses(2000, delta)


def wrong_list(A: Known, pairs: hs.Eigenpairs, *, copies: bool) -> bool:
    """Whether a list that is certified complete lacks an eigenvalue (window, residuals apart)."""
    if not pairs.certificate.complete:
        return False
    slack = pairs.certificate.window + float(pairs.residuals.norm())
    true = A.eigenvalues[: len(pairs)]
    if copies:
        return bool(((true - pairs.eigenvalues).abs() > slack).any())
    distance = (true[:, None] - pairs.eigenvalues[None, :]).abs().min(1).values
    return bool((distance > slack).any())


def bounds_missed(A: Known, pairs: hs.Eigenpairs) -> bool:
    low, high = float(A.eigenvalues[-1]), float(A.eigenvalues[0])
    return not (pairs.certificate.lower <= low and high <= pairs.certificate.upper)


def list_misses(runs: int, delta: float, *, verify: bool, warm: bool) -> tuple[int, int, int]:
    """(complete lists, wrong ones among them, bounds missed) for k = 10 of n = 25 ... 120."""
    complete = wrong = missed = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(25, 120))
        values = random_eigenvalues(n, seed)
        A = Known(values * 10.0 ** rng.integers(-3, 4))
        start = None
        if warm:  # without the first: it is easily missed
            start = sum(A.eigenvector(i) for i in range(1, 10))
        pairs = hs.eigsh(A, 10, verify=verify, delta=delta, seed=seed, start=start, tol=0.1)
        complete += pairs.certificate.complete
        wrong += wrong_list(A, pairs, copies=pairs.certificate.copies)
        missed += bounds_missed(A, pairs)
    return complete, wrong, missed


LISTS = [(verify, warm) for verify in (False, True) for warm in (False, True)]


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize(("verify", "warm"), LISTS)
def test_certified_lists_are_wrong_at_most_as_often_as_delta(verify, warm, delta):
    complete, wrong, missed = list_misses(20, delta, verify=verify, warm=warm)
    assert complete >= 10
    assert wrong <= most_misses(20, delta)
    assert missed <= most_misses(20, delta)


@pytest.mark.slow
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize(("verify", "warm"), LISTS)
def test_certified_lists_are_wrong_at_most_as_often_as_delta_in_600_runs(verify, warm, delta):
    complete, wrong, missed = list_misses(600, delta, verify=verify, warm=warm)
    print(f"verify={verify} warm={warm} delta={delta}: {complete} complete, {wrong} wrong, "
          f"bounds missed {missed} of 600")  # fmt: skip
    assert wrong <= most_misses(600, delta)
    assert missed <= most_misses(600, delta)


def test_a_warm_vector_that_knows_the_seeds_probe_does_not_void_the_certificate():
    """The warm vector cancels what the probe of the same seed would add to the first eigenvector.

    Warm vectors usually come from a run with the same seed, so the probe must be another one.
    """
    runs, delta, wrong = 60, 0.2, 0
    A = Known(torch.cat([torch.tensor([2.0, 1.5]), torch.linspace(1, 0, 98)]).double())
    for seed in range(runs):
        warm = torch.ones(100).double()
        warm[0] = 0.0
        first = -0.1 / math.sqrt(A.n) * float(A.probe(seed)[0])  # of the normalised warm vector
        warm[0] = first * float(warm.norm()) / math.sqrt(1 - first**2)
        pairs = hs.eigsh(A, 1, verify=False, start=warm, seed=seed, delta=delta)
        assert pairs.certificate.complete
        wrong += wrong_list(A, pairs, copies=False)
    assert wrong <= most_misses(runs, delta)

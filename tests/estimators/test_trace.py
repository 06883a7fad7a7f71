"""Traces and Frobenius norms: unbiased, intervals that cover, products as promised."""

from __future__ import annotations

import math
import re
from functools import partial

import numpy as np
import pytest
import torch

import hesscope as hs
from hesscope.estimators.deflation import Deflated
from tests.spectra import FAMILIES, Known, family, random_eigenvalues
from tests.tolerances import most_misses, rounding
from tests.trained import NETWORKS, hessian_spectrum

SPECTRA = (*FAMILIES, *NETWORKS)
FAR = 1000  # seeds so far apart share no probe


def values_of(name: str, n: int = 600) -> torch.Tensor:
    return hessian_spectrum(name) if name in NETWORKS else family(name, n)


def truth_of(values: torch.Tensor, ask) -> float:
    return float(values.norm() if ask is hs.frobenius_norm else values.sum())


def estimates(values: torch.Tensor, ask, runs: int, **options) -> list[hs.Estimate]:
    return [ask(Known(values), seed=FAR * seed, **options) for seed in range(runs)]


def assert_honest(values: torch.Tensor, found: list[hs.Estimate], truth: float, label: str) -> None:
    """No bias beyond four standard errors; misses within binomial limits of 5 %."""
    misses = sum(truth not in estimate.interval() for estimate in found)
    numbers = np.array([estimate.value for estimate in found])
    bias = (numbers.mean() - truth) / (numbers.std(ddof=1) / math.sqrt(len(found)))
    cost = np.mean([estimate.num_matvecs for estimate in found])
    half = np.mean([estimate.interval().width for estimate in found]) / 2 / abs(truth)
    print(f"{label}: misses {misses} of {len(found)}, bias {bias:+.1f} SE, "
          f"{cost:.0f} matvecs, half-width {half:.1e}")  # fmt: skip
    assert abs(bias) <= 4
    assert misses <= most_misses(len(found), 0.05)


# --- intervals

MODES = {
    "1 %": partial(hs.trace),
    "40 matvecs": partial(hs.trace, rtol=None, max_matvecs=40),
    "12 matvecs": partial(hs.trace, rtol=None, max_matvecs=12),
    "norm": hs.frobenius_norm,
}


@pytest.mark.parametrize("mode", ["40 matvecs", "12 matvecs", "norm"])
@pytest.mark.parametrize("name", SPECTRA)
def test_estimates_are_unbiased_and_their_intervals_cover(name, mode):
    values, ask = values_of(name, 200), MODES[mode]
    assert_honest(values, estimates(values, ask, 30), truth_of(values, ask), f"{name}, {mode}")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SPECTRA)
def test_estimates_are_unbiased_and_their_intervals_cover_in_500_runs(name, mode):
    values, ask = values_of(name), MODES[mode]
    assert_honest(values, estimates(values, ask, 500), truth_of(values, ask), f"{name}, {mode}")


@pytest.mark.parametrize("name", ["nn", "sing", "late"])
def test_the_tolerance_is_met_where_products_suffice(name):
    for estimate in estimates(values_of(name), hs.trace, 8):
        assert estimate.num_matvecs < 500
        assert estimate.interval().width / 2 <= 1.3 * 0.01 * abs(estimate.value)


def test_one_percent_of_a_trained_network_costs_at_most_70_products():
    costs = [estimate.num_matvecs for estimate in estimates(values_of("late"), hs.trace, 8)]
    assert np.mean(costs) <= 70


def test_a_tighter_tolerance_costs_more_and_gives_a_narrower_interval():
    loose, tight = (hs.trace(Known(family("sing", 600)), rtol=rtol) for rtol in (0.1, 0.005))
    assert loose.num_matvecs < tight.num_matvecs
    assert tight.interval().width < loose.interval().width


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_units_and_rotations_change_nothing_but_units(scale, dtype):
    values = family("nn", 300)
    A = Known(scale * values, dtype=dtype, rotate=1)
    estimate = hs.trace(A)
    assert estimate.num_matvecs == A.columns
    assert scale * float(values.sum()) in estimate.interval(0.9999)
    assert estimate.interval().width / 2 <= 0.013 * scale * float(values.sum())
    assert scale * float(values.norm()) in hs.frobenius_norm(A).interval(0.9999)


# --- the identities it rests on


@pytest.mark.parametrize("with_pairs", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_taken_out_and_what_is_left_add_up(name, with_pairs):
    """tr A = tr QᵀAQ + tr PAP and ‖A‖² = ‖QᵀAQ‖² + 2‖PAQ‖² + ‖PAP‖², by dense matrices."""
    values = family(name, 120)
    A = Known(values, rotate=2)
    pairs = hs.eigsh(A, 3, tol=0.1, verify=False) if with_pairs else None
    rest = Deflated(A, pairs, 0)
    for _ in range(2):
        rest.take_krylov(9)
    Q = torch.stack([rest.taken[i] for i in range(len(rest.taken))], 1)
    P = torch.eye(120).double() - Q @ Q.T
    left = P @ A.to_dense() @ P
    noise = rounding(torch.float64, 120, float(values.abs().max()))
    assert rest.trace + float(left.trace()) == pytest.approx(float(values.sum()), abs=noise)
    squares = rest.squares + float(left.square().sum())
    assert squares == pytest.approx(float(values.square().sum()), rel=1e-10)


def test_single_probes_are_unbiased_for_both_sums():
    values = family("sing", 200)
    rest = Deflated(Known(values), None, 0)
    probes = [rest.probe() for _ in range(2000)]
    for found, truth in (
        ([p.trace for p in probes], values.sum()),
        ([p.squares for p in probes], values.square().sum()),
    ):
        error = (np.mean(found) - float(truth)) / (np.std(found) / math.sqrt(2000))
        assert abs(error) <= 4


# --- products


@pytest.mark.parametrize("num_matvecs", [4, 5, 17, 60])
@pytest.mark.parametrize("ask", [hs.trace, hs.frobenius_norm])
def test_a_number_of_products_is_spent_exactly(num_matvecs, ask):
    A = Known(family("nn", 300))
    all_of_them = {"rtol": None} if ask is hs.trace else {}
    found = ask(A, max_matvecs=num_matvecs, **all_of_them)
    assert found.num_matvecs == A.columns == num_matvecs


@pytest.mark.parametrize("max_matvecs", [4, 5, 9, 20, 33, 60, 200])
@pytest.mark.parametrize("name", ["mult", "early"])
def test_max_matvecs_is_never_exceeded(name, max_matvecs):
    values = values_of(name)
    for seed in range(3):
        A = Known(values)
        estimate = hs.trace(A, rtol=1e-4, max_matvecs=max_matvecs, seed=seed)
        assert estimate.num_matvecs == A.columns <= max_matvecs
        assert float(values.sum()) in estimate.interval(0.9999)


def test_given_pairs_save_products_and_keep_the_interval_honest():
    values = values_of("late")
    pairs = hs.eigsh(Known(values), 15)
    with_pairs = estimates(values, hs.trace, 25, pairs=pairs)
    without = estimates(values, hs.trace, 10)
    assert np.mean([e.num_matvecs for e in with_pairs]) <= 0.8 * without[0].num_matvecs
    assert_honest(values, with_pairs, float(values.sum()), "given pairs")


@pytest.mark.parametrize("ask", [hs.trace, hs.frobenius_norm])
def test_pairs_that_have_not_converged_do_no_harm(ask):
    values = values_of("nn", 200)
    pairs = hs.eigsh(Known(values), 8, tol=0.1, verify=False)
    all_of_them = {"rtol": None} if ask is hs.trace else {}
    found = estimates(values, ask, 40, max_matvecs=24, pairs=pairs, **all_of_them)
    assert_honest(values, found, truth_of(values, ask), "loose pairs")


def test_a_trace_of_zero_ends_at_max_matvecs_with_an_interval_around_zero():
    values = torch.cat([torch.ones(150), -torch.ones(150)]).double() + 0.1 * torch.randn(300)
    values = (values - values.mean()).sort(descending=True).values.double()
    A = Known(values)
    estimate = hs.trace(A, max_matvecs=150)
    assert estimate.num_matvecs == A.columns <= 150
    assert 0.0 in estimate.interval(0.999)
    assert estimate.interval().width > 1.0


# --- exact cases


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
def test_small_operators_are_traced_exactly(n, dtype):
    values = random_eigenvalues(n, n)
    A = Known(values, dtype=dtype, rotate=0)
    noise = rounding(dtype, 20 * n, float(values.abs().max()))
    for estimate, truth in (
        (hs.trace(A, rtol=None, max_matvecs=2 * n + 4), float(values.sum())),
        (hs.frobenius_norm(A, max_matvecs=2 * n + 4), float(values.norm())),
    ):
        assert estimate.num_matvecs <= 2 * n + 4
        assert abs(estimate.value - truth) <= noise
        assert estimate.stderr <= noise


@pytest.mark.parametrize("rank", [0, 1, 5])
def test_low_rank_operators_are_traced_exactly(rank):
    values = torch.zeros(300).double()
    values[:rank] = torch.arange(rank, 0, -1.0).double()
    A = Known(values, rotate=1)
    noise = rounding(torch.float64, 300, max(rank, 1))
    assert abs(hs.trace(A).value - rank * (rank + 1) / 2) <= noise
    assert hs.trace(A).interval().width <= 4 * noise
    assert hs.trace(A).num_matvecs <= 20
    assert abs(hs.frobenius_norm(A).value - float(values.norm())) <= noise


def test_the_identity_needs_one_step_and_has_no_error():
    A = hs.as_operator(3 * torch.eye(500).double())
    assert hs.trace(A).value == pytest.approx(1500, rel=1e-12)
    assert hs.trace(A).interval().width <= 1e-8 * 1500  # a difference of squares, and its root
    assert hs.frobenius_norm(A).value == pytest.approx(3 * math.sqrt(500), rel=1e-12)


def test_the_same_seed_gives_the_same_bits():
    A = Known(family("sing", 300))
    assert hs.trace(A, seed=5) == hs.trace(A, seed=5)
    assert hs.trace(A, seed=5).value != hs.trace(A, seed=6).value


# --- doors


def small() -> Known:
    return Known(family("nn", 100))


REFUSED = [
    (lambda: hs.trace(small(), rtol=0.0),
     "rtol=0.0 is no tolerance; give a positive one such as 0.01."),
    (lambda: hs.trace(small(), rtol=math.nan),
     "rtol=nan is no tolerance; give a positive one such as 0.01."),
    *[(ask, "a trace needs at least 4 products; the usual number is 40 to 60.")
      for ask in (lambda: hs.trace(small(), rtol=None, max_matvecs=3),
                  lambda: hs.trace(small(), max_matvecs=0),
                  lambda: hs.frobenius_norm(small(), max_matvecs=2))],
    *[(partial(ask, small(), pairs=hs.eigsh(Known(family("nn", 80)), 2)),
       "the eigenpairs have 80 entries, A has n=100.") for ask in (hs.trace, hs.frobenius_norm)],
]  # fmt: skip


@pytest.mark.parametrize(("ask", "message"), REFUSED)
def test_questions_without_an_answer_are_refused(ask, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ask()


@pytest.mark.parametrize("after", [0, 30])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_product_that_is_not_finite_is_refused(after, value):
    calls = iter(range(10**6))

    def matmat(V):
        return V * value if next(calls) >= after else torch.linspace(-1, 2, 300)[:, None] * V

    message = (
        "a product of the operator with a finite vector is NaN or infinite; "
        "hs.check_problem names the cause."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        hs.trace(hs.as_operator(matmat, 300), rtol=None, max_matvecs=40)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1])
def test_a_level_is_a_probability(level):
    message = f"level={level} is not a probability between 0 and 1; the usual one is 0.95."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.trace(small()).interval(level)

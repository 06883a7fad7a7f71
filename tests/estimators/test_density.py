"""The density against known spectra: counts that cover, costs, shapes, edges, doors."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hesscope as hs
from hesscope.results import density as result_module
from tests.spectra import FAMILIES, Known, family, random_eigenvalues
from tests.tolerances import most_misses
from tests.trained import NETWORKS, hessian_spectrum

N = 600
LEVEL = 0.95
SPECTRA = (*FAMILIES, *NETWORKS)
COPIES = (
    r"a second start finds eigenvalues (above|below) \S+ that the run has not resolved "
    r"\(copies\?\); deflate=hs\.eigsh\(A, k\) takes them out"
)


def values_of(name: str, n: int = N) -> torch.Tensor:
    return hessian_spectrum(name) if name in NETWORKS else family(name, n)


def true_count(values: torch.Tensor, low: float = -math.inf, high: float = math.inf) -> int:
    return int(((values >= low) & (values <= high)).sum())


def places(values: torch.Tensor) -> list[float]:
    """Thresholds that do not depend on any run: zero, eigenvalues, between and beside them."""
    n, size = len(values), float(values.abs().max())
    on_values = [float(values[i]) for i in (0, 5, 20, n // 5, n - 2)]
    middle = (float(values[9]) + float(values[10])) / 2
    return [0.0, *on_values, middle, 0.01 * size, -1e-3 * size, 1e-3 * size]


# --- coverage


def missed(d: hs.SpectralDensity, values: torch.Tensor, every: int = 1) -> dict[str, bool]:
    """Which statements of one density are wrong, at every so-manieth threshold."""
    tau, x = d.tau, places(values)[::every]
    scale = 1e-3 * float(values.abs().max())
    found = {
        "negative": true_count(values, high=-tau) not in d.negative(),
        "null": true_count(values, -tau, tau) not in d.null(),
        "positive": true_count(values, low=tau) not in d.positive(),
        "two-sided": true_count(values, -scale, scale) not in d.count(-scale, scale),
        "range": not d.lower <= float(values[-1]) <= float(values[0]) <= d.upper,
    }
    found |= {f"up to {t:.3g}": true_count(values, high=t) not in d.count(high=t) for t in x}
    low, high = d.band(torch.tensor(sorted(x), dtype=torch.float64))
    truth = [true_count(values, high=t) / len(values) for t in sorted(x)]
    truth = torch.tensor(truth, dtype=torch.float64)
    rounding = 1e-12  # of k/n
    found["band"] = bool(((truth < low - rounding) | (truth > high + rounding)).any())
    return found


def miss_counts(values: torch.Tensor, runs: int, num_matvecs: int, **options) -> dict[str, int]:
    """How often each statement is wrong; `pairs` are options for eigsh, whose pairs are given."""
    dtype, pair_options = options.pop("dtype", torch.float64), options.pop("pairs", None)
    every = options.pop("every", 1)
    total: dict[str, int] = {}
    for seed in range(runs):
        A = Known(values, dtype=dtype)
        if pair_options is not None:
            options["deflate"] = hs.eigsh(A, seed=seed, **pair_options)
        d = hs.spectral_density(A, num_matvecs, seed=seed, **options)
        for name, wrong in missed(d, values, every).items():
            total[name] = total.get(name, 0) + int(wrong)
    return total


def assert_covered(total: dict[str, int], runs: int, delta: float = 1e-3) -> None:
    for name, misses in total.items():
        allowed = delta if name == "range" else 1 - LEVEL
        assert misses <= most_misses(runs, allowed), (name, misses, runs)


@pytest.mark.parametrize("name", SPECTRA)
def test_counts_bands_and_ranges_cover_the_truth(name):
    assert_covered(miss_counts(values_of(name, 200), 40, 20, every=5), 40)


@pytest.mark.slow
@pytest.mark.parametrize("num_matvecs", [30, 80])
@pytest.mark.parametrize("name", SPECTRA)
def test_counts_bands_and_ranges_cover_the_truth_in_500_runs(name, num_matvecs):
    total = miss_counts(values_of(name), 500, num_matvecs)
    shares = {key: f"{misses / 5:.1f} %" for key, misses in total.items()}
    print(f"{name}, {num_matvecs} matvecs, misses of 500: {shares}")
    assert_covered(total, 500)


PAIRS = ({"k": 8, "tol": 1e-3}, {"k": 8, "tol": 0.1, "verify": False}, {"k": 6, "which": "BE"})


@pytest.mark.parametrize(("name", "pairs"), [("mult", PAIRS[0]), ("late", PAIRS[1])])
def test_counts_cover_with_given_pairs_converged_or_not(name, pairs):
    assert_covered(miss_counts(values_of(name, 200), 20, 16, pairs=pairs, every=5), 20)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("name", ["mult", "late"])
def test_counts_cover_with_given_pairs_converged_or_not_in_500_runs(name, pairs):
    total = miss_counts(values_of(name), 500, 40, pairs=pairs, every=2)
    shares = {key: f"{misses / 5:.1f} %" for key, misses in total.items()}
    print(f"{name}, {pairs}, misses of 500: {shares}")
    assert_covered(total, 500)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"deflate": "none"}, {"verify": False}, {"dtype": torch.float32}]
)
@pytest.mark.parametrize("name", ["mult", "early"])
def test_counts_cover_whatever_the_options_in_500_runs(name, options):
    total = miss_counts(values_of(name), 500, 40, every=2, **options)
    shares = {key: f"{misses / 5:.1f} %" for key, misses in total.items()}
    print(f"{name}, {options}, misses of 500: {shares}")
    assert_covered(total, 500)


@pytest.mark.parametrize("options", [{"deflate": "none"}, {"dtype": torch.float32}])
def test_counts_cover_whatever_the_options(options):
    assert_covered(miss_counts(values_of("nn", 200), 25, 20, every=5, **options), 25)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(5, 120),
    seed=st.integers(0, 100_000),
    num_matvecs=st.integers(4, 60),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_intervals_are_never_inverted_and_nearly_certain_ones_hold(
    n, seed, num_matvecs, scale, dtype
):
    """At a level of 1 - 2e-9 a miss in 60 examples is a fault."""
    values = scale * random_eigenvalues(n, seed)
    values = values.to(dtype).double()  # the eigenvalues of the operator as it is stored
    A = Known(values, dtype=dtype)
    d = hs.spectral_density(A, num_matvecs, seed=seed, delta=1e-9)
    assert d.num_matvecs == A.columns <= max(num_matvecs, n)
    low, high = d.band(values, level=1 - 2e-9)
    assert (low <= high).all()
    for x in [*values[:: max(1, n // 7)].tolist(), 0.0, float(values[0]) * 0.3]:
        found = d.count(high=x, level=1 - 2e-9)
        assert 0 <= found.low <= true_count(values, high=x) <= found.high <= n
    exact = true_count(values, -d.tau, d.tau)
    assert d.null(level=1 - 2e-9).low <= exact <= d.null(level=1 - 2e-9).high


# --- the picture


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("num_matvecs", [4, 20, 100])
def test_a_density_is_a_density_and_costs_what_it_may(name, num_matvecs):
    A = Known(values_of(name))
    d = hs.spectral_density(A, num_matvecs)
    assert d.num_matvecs == A.columns <= num_matvecs
    assert (d.nodes.diff() >= 0).all()
    assert (d.weights >= 0).all()
    assert float(d.weights.sum()) == pytest.approx(1.0, abs=1e-12)
    assert len(d.outliers) == len(d.errors) == len(d.locked)
    assert (d.outliers.diff() <= 0).all()
    assert (d.nodes.dtype, d.n, d.facts["steps"]) == (torch.float64, A.n, len(d.alpha))
    for value, error in zip(d.outliers, d.errors, strict=True):
        assert float((A.eigenvalues - value).abs().min()) <= float(error)


@pytest.mark.parametrize("name", ["nn", "sing", "early", "late"])
def test_outliers_beyond_the_cuts_are_all_there_are(name):
    values = values_of(name)
    d = hs.spectral_density(Known(values), 100)
    assert math.isfinite(d.cut_high)
    above = d.outliers[d.outliers > d.cut_high]
    assert len(above) == true_count(values, low=d.cut_high)
    assert float((above - values[: len(above)]).abs().max()) <= float(d.errors.max())
    x = float(above[len(above) // 2] + above[len(above) // 2 - 1]) / 2
    assert d.count(low=x).low == d.count(low=x).high == true_count(values, low=x)


def wasserstein(values: torch.Tensor, nodes: torch.Tensor, weights: torch.Tensor) -> float:
    """∫ |F - G| of the distribution of the values and of weighted nodes."""
    x, order = torch.cat([values, nodes]).sort()
    jumps = torch.cat([torch.full_like(values, 1 / len(values)), -weights])[order]
    return float((jumps.cumsum(0)[:-1].abs() * x.diff()).sum())


def test_wasserstein_distances_are_right_in_simple_cases():
    three = torch.tensor([0.0, 1.0, 2.0]).double()
    assert wasserstein(three, three + 5, torch.full((3,), 1 / 3).double()) == pytest.approx(5)
    one = torch.ones(1).double()
    assert wasserstein(three, one, one) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("name", "gain"), [("late", 10), ("early", 1.5)])
def test_the_picture_of_a_trained_network_is_ten_times_nearer_than_plain_quadrature(name, gain):
    """Early in training the bulk reaches out to the outliers, and there is less to gain."""
    values, plain, ours = hessian_spectrum(name), [], []
    for seed in range(4):
        for deflate, distances in (("none", plain), ("auto", ours)):
            d = hs.spectral_density(Known(values), 100, deflate=deflate, seed=seed)
            distances.append(wasserstein(values, d.nodes, d.weights))
    print(f"{name}: W1 {np.mean(plain):.2e} plain, {np.mean(ours):.2e} deflated")
    assert np.mean(ours) <= np.mean(plain) / gain


def test_expected_counts_are_near_the_truth():
    values = family("nn", N)
    d = hs.spectral_density(Known(values), 100)
    assert d.expected() == pytest.approx(N)
    assert d.expected(low=0.05) == pytest.approx(true_count(values, low=0.05), abs=1)
    assert d.cdf(0.05).low <= true_count(values, high=0.05) / N <= d.cdf(0.05).high
    assert d.cdf(100.0) == hs.Interval(1.0, 1.0, 0.95)


def test_copies_are_noted_and_do_not_make_the_picture_or_the_counts_wrong():
    values = family("mult", N)
    d = hs.spectral_density(Known(values), 60)
    assert len(d.notes) == 1
    assert re.fullmatch(COPIES, d.notes[0])
    truth = true_count(values, low=1.99)  # 10 copies, 9 in a cluster, and what lies between
    assert truth in d.count(low=1.99, level=0.99)
    assert abs(d.expected(low=1.99) - truth) <= 5 * math.sqrt(2 * 19)  # of the masses of copies
    d = hs.spectral_density(Known(values), 60, deflate=hs.eigsh(Known(values), truth))
    assert (d.notes, d.expected(low=1.99)) == ((), pytest.approx(truth))
    assert d.count(low=1.99).low == d.count(low=1.99).high == truth


def test_a_single_seed_gives_the_same_bits_and_given_pairs_another_start():
    A = Known(family("nn", N))
    a, b = (hs.spectral_density(A, 40, seed=3) for _ in range(2))
    assert bool((a.nodes == b.nodes).all() and (a.weights == b.weights).all())
    pairs = hs.eigsh(A, 1, seed=3)
    assert hs.spectral_density(A, 40, deflate=pairs, seed=3).alpha[0] != a.alpha[0]


# --- edges


@pytest.mark.parametrize("n", [1, 2, 3, 17, 60])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_as_many_products_as_eigenvalues_give_the_exact_spectrum(n, dtype):
    values = random_eigenvalues(n, n).to(dtype).double()
    A = Known(values, dtype=dtype)
    d = hs.spectral_density(A, max(n, 4))
    assert d.num_matvecs == A.columns == n
    assert d.notes == ("exact: as many products as eigenvalues were allowed for",)
    assert (d.nodes - values.flip(0)).abs().max() <= d.rounding
    for x in ((values[1:] + values[:-1]) / 2).tolist():
        if float((values - x).abs().min()) > 2 * d.rounding:
            count = true_count(values, high=x)
            assert d.count(high=x) == hs.Interval(count, count, 0.95)
    assert true_count(values, -d.tau, d.tau) in d.null()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_low_rank_operator_is_used_up_and_its_zeros_are_counted(scale, dtype):
    values = torch.zeros(N).double()
    values[:7] = scale * torch.tensor([5.0, 4.0, 3.0, 1.0, 0.3, 0.1, 0.05])
    values[-1] = -2.0 * scale
    d = hs.spectral_density(Known(values.sort(descending=True).values, dtype=dtype), 60)
    assert d.num_matvecs < 25
    assert d.negative() == hs.Interval(1, 1, 0.95)
    spare = 0 if dtype == torch.float64 else 5  # the cut is one outlier further out
    assert d.positive().low == 7
    assert d.null().high == 592
    assert max(d.positive().width, d.null().width) <= spare
    assert d.count(0.4 * scale, 0.9 * scale) == hs.Interval(0, 0, 0.95)


def test_repeated_values_of_a_run_that_is_used_up_are_not_taken_for_single_ones():
    """Ten values, twenty of each: the run finds ten and cannot know how often they occur."""
    values = torch.arange(1.0, 11.0).double().repeat_interleave(20).flip(0)
    for deflate in ("auto", "none"):
        d = hs.spectral_density(Known(values), 120, deflate=deflate)
        assert len(d.nodes) == 10
        assert float(d.weights.sum()) == pytest.approx(1.0)
        assert (200 * d.weights - 20).abs().max() <= 5 * math.sqrt(2 * 20)
        assert 100 in d.count(high=5.5)
        assert d.count(low=0.5) == hs.Interval(200, 200, 0.95)


@pytest.mark.parametrize("n", [1, 3, 300])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_zero_operator_has_only_zeros(n, dtype):
    d = hs.spectral_density(hs.as_operator(torch.zeros(n, n, dtype=dtype)), 20)
    assert (d.lower, d.upper, d.size) == (0.0, 0.0, 0.0)
    assert d.null() == hs.Interval(n, n, 0.95)
    assert d.negative() == d.positive() == hs.Interval(0, 0, 0.95)
    assert f"within ±1.0e-300   {n} to {n}" in str(d)


@pytest.mark.parametrize("scale", [1e-12, 1.0, -1e12])
@pytest.mark.parametrize("n", [1, 3, 300])
def test_multiples_of_the_identity_have_one_atom(n, scale):
    d = hs.spectral_density(hs.as_operator(scale * torch.eye(n).double()), 20)
    assert d.weights[d.nodes.sub(scale).abs() <= 1e-9 * abs(scale)].sum() == pytest.approx(1.0)
    assert d.count(0.9 * scale, 1.1 * scale) == hs.Interval(n, n, 0.95) if scale > 0 else True
    assert (d.negative() if scale < 0 else d.positive()) == hs.Interval(n, n, 0.95)
    assert d.null() == hs.Interval(0, 0, 0.95)
    assert d.lower == pytest.approx(scale, rel=1e-9)
    assert d.upper == pytest.approx(scale, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_units_change_nothing_but_units(scale):
    values = family("nn", N)
    one, other = (hs.spectral_density(Known(c * values), 60) for c in (1.0, scale))
    assert other.nodes.numpy() == pytest.approx(scale * one.nodes.numpy(), rel=1e-6)
    assert len(other.outliers) == len(one.outliers)
    for x in (-1e-3, 1e-3, 0.1):
        assert other.count(high=scale * x) == one.count(high=x)
    assert other.null() == one.null()


def test_where_there_is_nothing_the_count_is_zero():
    """Three clusters with wide gaps: thresholds in a gap, beyond the ends, on a cluster."""
    values = torch.cat(
        [2 + 0.01 * torch.rand(80), 0.01 * torch.rand(90), -1 - 0.01 * torch.rand(70)]
    )
    values = values.double().sort(descending=True).values
    for seed in range(6):
        d = hs.spectral_density(Known(values), 30, deflate="none", seed=seed)
        for low, high in ((0.5, 1.5), (0.5, 0.5), (-0.8, -0.2), (2.5, 9.0), (-9.0, -1.5)):
            assert d.count(low, high).low == 0
        assert d.count(2.5, 9.0).high == 0
        assert d.count(0.9, 1.1).high == 0
    x = float(values[40])
    assert d.count(x, x).low == 0
    assert d.count(x, x).high >= 1


def test_a_singular_operator_is_seen_to_be_singular_in_float32():
    """Zeros are found to rounding, so the default tau must not be as small as that."""
    values = torch.zeros(N).double()
    values[:20] = torch.logspace(0, -1, 20)
    for n in (N, 60):
        A = Known(values[:n], dtype=torch.float32, rotate=1)
        d = hs.spectral_density(A, 80)
        assert d.null().low >= n - 20 - 2
        assert d.negative() == hs.Interval(0, 0, 0.95)


# --- interrupts and faults


class Failing(Known):
    """Raises, or returns garbage, at the call with this number."""

    def __init__(self, values: torch.Tensor, call: int, fault: BaseException | float) -> None:
        super().__init__(values)
        self.call, self.fault = call, fault

    def matmat(self, V):
        if self.columns + 1 == self.call:
            if isinstance(self.fault, BaseException):
                raise self.fault
            return V * self.fault
        return super().matmat(V)


@pytest.mark.parametrize("call", [2, 10, 40, 50, 58])
def test_an_interrupt_returns_what_the_steps_until_then_give(call):
    values = family("nn", N)
    with pytest.warns(UserWarning, match=r"^interrupted: returning the density found so far$"):
        d = hs.spectral_density(Failing(values, call, KeyboardInterrupt()), 60)
    assert "interrupted: fewer steps than asked for" in d.notes
    assert d.num_matvecs == call - 1
    assert float(d.weights.sum()) == pytest.approx(1.0)
    assert not missed(d, values)["range"]
    assert true_count(values, high=0.01) in d.count(high=0.01, level=0.99)


def test_an_interrupt_before_the_first_step_goes_on_to_the_caller():
    with pytest.raises(KeyboardInterrupt):
        hs.spectral_density(Failing(family("nn", N), 1, KeyboardInterrupt()), 60)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("call", [1, 30, 55])
def test_a_product_that_is_not_finite_is_refused(value, call):
    message = (
        "a product of the operator with a finite vector is NaN or infinite; "
        "hs.check_problem names the cause."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        hs.spectral_density(Failing(family("nn", N), call, value), 60)


# --- results


def test_a_saved_density_gives_the_same_counts(tmp_path):
    d = hs.spectral_density(Known(family("nn", N)), 60)
    again = hs.load(hs.save(d, tmp_path))
    assert str(again) == str(d)
    for x in (-0.1, 0.0, 1e-3, 5.0):
        assert again.count(high=x) == d.count(high=x)
    grid = torch.linspace(11, -1, 7)
    assert all(bool((a == b).all()) for a, b in zip(again.band(grid), d.band(grid), strict=True))


def test_a_density_prints_its_range_its_threshold_and_three_counts():
    d = hs.spectral_density(Known(family("nn", N)), 100)
    lines = str(d).splitlines()
    assert lines[0] == (
        f"spectral density of 600 eigenvalues, {len(d.outliers)} of them as outliers, 100 matvecs"
    )
    assert lines[1] == f"  all in [{d.lower:.6g}, {d.upper:.6g}] (probability 0.999)"
    assert lines[2] == "  tau = 1.0e-05 = 1e-06 of the largest |λ|, counts at 95 %:"
    for line, name, found in zip(
        lines[3:6],
        ("below -1.0e-05", "within ±1.0e-05", "above 1.0e-05"),
        (d.negative(), d.null(), d.positive()),
        strict=True,
    ):
        assert line == f"    {name:<18} {found.low:.0f} to {found.high:.0f}"
    noted = hs.spectral_density(Known(family("mult", N)), 60)
    assert str(noted).splitlines()[-1].startswith("  note: a second start finds eigenvalues above")


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_higher_levels_give_wider_intervals_and_bands_contain_counts(level):
    d = hs.spectral_density(Known(family("nn", N)), 40)
    x = torch.tensor([-0.01, 0.0, 0.001])
    low, high = d.band(x, level)
    for i, t in enumerate(x.tolist()):
        narrow, wide = d.count(high=t, level=level), d.count(high=t, level=0.995)
        assert wide.low <= narrow.low <= narrow.high <= wide.high
        assert low[i] <= narrow.low / N
        assert narrow.high / N <= high[i]


def test_a_band_takes_thresholds_in_any_order():
    d = hs.spectral_density(Known(family("nn", N)), 40)
    x = torch.linspace(-1, 11, 9).double()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    for sorted_ends, ends in zip(d.band(x), d.band(x[order]), strict=True):
        assert bool((ends == sorted_ends[order]).all())


def test_an_empty_band_is_empty():
    d = hs.spectral_density(Known(family("nn", 100)), 20)
    assert [len(part) for part in d.band(torch.zeros(0))] == [0, 0]


# --- doors


def dense(n: int = 100) -> Known:
    return Known(family("nn", n))


def pairs_of_another_size() -> hs.Eigenpairs:
    return hs.eigsh(dense(80), 2)


REFUSED = [
    (lambda: hs.spectral_density("eye"),
     "str is no operator; give one such as hs.Hessian(problem), a square tensor or array, a SciPy "
     "operator, or hs.as_operator(function, n)."),
    (lambda: hs.spectral_density(dense(), 3),
     "max_matvecs=3 is too few for a density; the usual is 100."),
    (lambda: hs.spectral_density(dense(), delta=0.0),
     "delta=0.0 must lie between 0 and 0.05, so that 95 % is left; the usual is 1e-3."),
    (lambda: hs.spectral_density(dense(), delta=0.05),
     "delta=0.05 must lie between 0 and 0.05, so that 95 % is left; the usual is 1e-3."),
    (lambda: hs.spectral_density(dense(), deflate="all"),
     "deflate='all'; give 'auto', 'none' or the result of hs.eigsh."),
    (lambda: hs.spectral_density(dense(), deflate=pairs_of_another_size()),
     "the eigenpairs have 80 entries, A has n=100."),
    (lambda: hs.spectral_density(dense(), 20).count(2.0, 1.0),
     "low=2.0 exceeds high=1.0; give the smaller one first."),
    (lambda: hs.spectral_density(dense(), 20).negative(-1.0),
     "tau=-1.0 is no threshold; give a positive number, for example 1.0e-05."),
    (lambda: hs.spectral_density(dense(), 20).null(0.0),
     "tau=0.0 is no threshold; give a positive number, for example 1.0e-05."),
    (lambda: hs.spectral_density(dense(), 20).positive(math.nan),
     "tau=nan is no threshold; give a positive number, for example 1.0e-05."),
    *[(lambda call=call: call(hs.spectral_density(dense(), 20)),
       "level=0.999 must lie between 0 and 0.999 = 1 - delta; the usual one is 0.95. A smaller "
       "delta in spectral_density allows for higher levels.")
      for call in (lambda d: d.count(level=0.999), lambda d: d.band(torch.zeros(1), 0.999),
                   lambda d: d.cdf(0.0, 0.999), lambda d: d.null(level=0.999))],
]  # fmt: skip


@pytest.mark.parametrize(("ask", "message"), REFUSED)
def test_questions_without_an_answer_are_refused(ask, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ask()


def test_too_many_products_for_the_memory_are_refused_with_how_many_would_fit(monkeypatch):
    monkeypatch.setattr("hesscope.operator.place.available_bytes", lambda device: 2 * 8 * 600 * 50)
    message = (
        "100 products of n=600 keep up to 960 kB of vectors, 480 kB are free; max_matvecs=50 "
        "would fit."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.spectral_density(Known(family("nn", N)), 100, basis="memory")


def test_the_default_tau_is_a_millionth_of_the_largest_or_three_roundings():
    d = hs.spectral_density(Known(family("nn", N)), 60)
    assert d.tau == pytest.approx(result_module.RELATIVE_TAU * 10)
    d = hs.spectral_density(Known(family("nn", N), dtype=torch.float32), 60)
    assert d.tau == pytest.approx(result_module.ROUNDINGS * d.rounding)

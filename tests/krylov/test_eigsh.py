"""eigsh against known spectra and against ARPACK: values, errors, certificates, costs, doors."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh as arpack

import hesscope as hs
from tests.spectra import FAMILIES, Known, family, random_eigenvalues
from tests.tolerances import rounding

N = 2000
WHICH = ("LA", "SA", "LM", "BE")
DTYPES = (torch.float64, torch.float32)


def wanted(values: torch.Tensor, k: int, which: str) -> torch.Tensor:
    """The k wanted ones of the values, the most wanted first."""
    down = values.sort(descending=True).values
    if which == "LA":
        return down[:k]
    if which == "SA":
        return down.flip(0)[:k]
    if which == "LM":
        return values[values.abs().argsort(descending=True, stable=True)][:k]
    return torch.cat([down[: -(-k // 2)], down[len(down) - k // 2 :]])


def assert_right(A: Known, pairs: hs.Eigenpairs, k: int, which: str) -> None:
    """Values within residuals, vectors orthonormal, residuals true, cost as counted."""
    size = float(A.eigenvalues.abs().max())
    true = wanted(A.eigenvalues, k, which)
    error = (pairs.eigenvalues - true).abs()
    noise = rounding(A.dtype, 100, size)
    # the list may end inside a cluster that the certificate does not resolve
    cut = (true.abs() - true.abs().min()) <= pairs.certificate.window
    assert (error <= pairs.residuals + noise + cut * pairs.certificate.window).all()
    X = pairs.eigenvectors.double()
    assert (X.T @ X - torch.eye(k)).abs().max() <= rounding(A.dtype, 100, 1.0)
    assert A.columns == pairs.num_matvecs
    fresh = ((A @ pairs.eigenvectors).double() - X * pairs.eigenvalues).norm(dim=0)
    assert ((pairs.residuals - fresh).abs() <= noise).all()


# --- known spectra


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rotate", [None, 3])
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("kind", FAMILIES)
def test_known_spectra_are_found_with_copies_and_certified(kind, which, rotate, dtype):
    for k in (1, 4) if which == "SA" else (1, 4, 10):  # beyond the fifth lies the bulk
        A = Known(family(kind, N), dtype=dtype, rotate=rotate)
        pairs = hs.eigsh(A, k, which)
        assert_right(A, pairs, k, which)
        assert pairs.converged.all()
        assert pairs.certificate.complete
        assert pairs.certificate.copies
        noise = rounding(dtype, 20, 20.0)  # of the reflection
        assert pairs.certificate.lower <= float(A.eigenvalues[-1]) + noise
        assert float(A.eigenvalues[0]) <= pairs.certificate.upper + noise


LONG = [(k, dtype) for k in (10, 26, 50) for dtype in DTYPES]
LONG += [pytest.param(200, dtype, marks=pytest.mark.slow) for dtype in DTYPES]  # seconds each


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize(("k", "dtype"), LONG)
def test_long_lists_hold_no_duplicates_and_no_gaps(kind, k, dtype):
    A = Known(family(kind, N), dtype=dtype, rotate=0)
    pairs = hs.eigsh(A, k, max_matvecs=2000)
    assert_right(A, pairs, k, "LA")  # one value too often would push out, or double, another
    assert pairs.converged.all()


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize("kind", ["nn", "sing"])
def test_arpack_agrees(kind, which):
    A = Known(family(kind, 500), rotate=5)
    pairs = hs.eigsh(A, 6, which)
    theirs = arpack(A.to_scipy(), 6, which=which, return_eigenvectors=False, tol=1e-12)
    ours = np.sort(pairs.eigenvalues.numpy())
    assert np.abs(ours - np.sort(theirs)).max() <= float(pairs.residuals.max())


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 100_000),
    which=st.sampled_from(WHICH),
    share=st.floats(0, 1),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
    dtype=st.sampled_from(DTYPES),
)
def test_every_part_of_small_spectra_is_found(n, seed, which, share, scale, dtype):
    k = 1 + round(share * (n - 1))
    A = Known(scale * random_eigenvalues(n, seed), dtype=dtype, rotate=seed)
    pairs = hs.eigsh(A, k, which, seed=seed)
    assert len(pairs) == k
    if pairs.certificate.complete and which != "LM":  # with LM, λ and -λ may stand for each other
        found = wanted(pairs.eigenvalues, k, which)
        slack = pairs.residuals.norm() + pairs.certificate.window
        assert ((found - wanted(A.eigenvalues, k, which)).abs() <= slack).all()
    if pairs.certificate.complete and which == "LM":
        error = pairs.eigenvalues.abs() - wanted(A.eigenvalues, k, which).abs()
        assert (error.abs() <= pairs.residuals.norm() + pairs.certificate.window).all()
    if k == n:
        assert pairs.certificate.complete


def interval_misses(runs: int) -> tuple[int, int]:
    """(intervals, those without an eigenvalue), converged or not."""
    intervals = misses = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 80))
        dtype = DTYPES[seed % 2]
        A = Known(random_eigenvalues(n, seed), dtype=dtype, rotate=seed)
        k = min(n, int(rng.integers(1, 6)))
        limit = int(rng.integers(2, 40))
        pairs = hs.eigsh(A, k, WHICH[seed % 4], max_matvecs=limit, seed=seed)
        for i in range(len(pairs)):
            inside = pairs.interval(i)
            noise = rounding(dtype, 20, float(A.eigenvalues.abs().max()))
            hit = (A.eigenvalues >= inside.low - noise) & (A.eigenvalues <= inside.high + noise)
            intervals, misses = intervals + 1, misses + int(not hit.any())
    return intervals, misses


@pytest.mark.parametrize("runs", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_every_residual_interval_holds_an_eigenvalue_converged_or_not(runs):
    intervals, misses = interval_misses(runs)
    assert intervals > 2 * runs
    assert misses == 0


# --- cost


@pytest.mark.parametrize("seed", range(5))
def test_ten_pairs_of_a_network_like_spectrum_cost_at_most_41_matvecs(seed):
    A = Known(family("nn", 5000))
    pairs = hs.eigsh(A, 10, seed=seed)
    assert pairs.num_matvecs == A.columns <= 41


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tenfold_eigenvalue_is_found_ten_times_in_90_matvecs(dtype):
    A = Known(family("mult", 5000), dtype=dtype)
    pairs = hs.eigsh(A, 10)
    quadratic = float(pairs.residuals.square().sum()) / (10 - float(A.eigenvalues[10]))
    assert (pairs.eigenvalues - 10).abs().max() <= quadratic + rounding(dtype, 100, 10.0)
    assert pairs.num_matvecs == A.columns <= 90


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 12, 20, 35, 50])
@pytest.mark.parametrize("k", [1, 2, 10])
def test_max_matvecs_is_never_exceeded_and_partial_pairs_are_flagged(limit, k):
    A = Known(family("nn", 500))
    pairs = hs.eigsh(A, k, max_matvecs=limit)
    assert 1 <= len(pairs) <= k
    assert pairs.num_matvecs == A.columns <= limit
    relative = pairs.residuals / pairs.eigenvalues.abs()
    assert torch.equal(pairs.converged, relative <= 1e-3)
    if not pairs.converged.all() or len(pairs) < k:
        assert not pairs.certificate.complete
        assert pairs.certificate.statement.startswith("not certified complete; ")
    if len(pairs) < k:
        assert f"only {len(pairs)} of {k} pairs were found" in pairs.notes


def test_unconverged_pairs_are_lower_bounds_and_say_what_to_do():
    A = Known(family("nn", 500))
    pairs = hs.eigsh(A, 10, max_matvecs=24)
    left = int((~pairs.converged).sum())
    assert 0 < left < 10
    assert (pairs.eigenvalues <= A.eigenvalues[:10] + 1e-12).all()
    advice = "pairs did not converge in 24 matvecs; raise max_matvecs or tol"
    assert pairs.notes == (f"{left} of 10 {advice}",)
    assert str(pairs).count("not converged") == left


# --- closed forms


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("which", WHICH)
def test_tiny_operators_are_solved_in_full(n, which, dtype):
    values = torch.tensor([3.0, 1.0, -2.0])[:n].double()
    for k in range(1, n + 1):
        A = Known(values, dtype=dtype, rotate=1)
        pairs = hs.eigsh(A, k, which)
        assert_right(A, pairs, k, which)
        if k == n:
            assert pairs.certificate.complete
            assert pairs.certificate.copies


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_zero_operator_has_zeros_and_nothing_else(k, dtype):
    pairs = hs.eigsh(hs.as_operator(torch.zeros(6, 6, dtype=dtype)), k)
    assert pairs.eigenvalues.tolist() == [0.0] * k
    assert pairs.residuals.tolist() == [0.0] * k
    assert pairs.converged.all()
    assert pairs.certificate.complete
    assert (pairs.certificate.lower, pairs.certificate.upper) == (0.0, 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 5, 300])
def test_the_identity_is_found_as_often_as_asked(n, dtype):
    for k in {1, min(n, 4)}:
        A = Known(torch.ones(n).double(), dtype=dtype)
        pairs = hs.eigsh(A, k)
        assert_right(A, pairs, k, "LA")
        assert pairs.certificate.complete


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [20, 300, 5000])
def test_rank_three_has_three_pairs_and_a_null_space(n, dtype):
    values = torch.zeros(n).double()
    values[:3] = torch.tensor([5.0, 2.0, 1.0])
    A = Known(values, dtype=dtype, rotate=2)
    pairs = hs.eigsh(A, 6)
    assert_right(A, pairs, 6, "LA")
    assert pairs.converged.all()
    assert pairs.certificate.complete


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_units_change_nothing_but_units(scale, dtype):
    values = family("nn", 500)
    pairs = hs.eigsh(Known(values, dtype=dtype), 5)
    scaled = hs.eigsh(Known(scale * values, dtype=dtype), 5)
    assert abs(scaled.num_matvecs - pairs.num_matvecs) <= 1
    assert torch.allclose(scaled.eigenvalues / scale, pairs.eigenvalues, rtol=1e-5, atol=0)
    assert scaled.certificate.complete


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(-5, 5))
def test_the_smallest_of_a_are_the_largest_of_minus_a(seed, shift):
    values = torch.linspace(-1, 1, 40).double().square() + shift
    low = hs.eigsh(Known(values), 3, "SA", seed=seed)
    high = hs.eigsh(Known(-values), 3, "LA", seed=seed)
    assert (low.eigenvalues + high.eigenvalues).abs().max() <= rounding(torch.float64, 400, 6.0)
    # where a copy is told from a value by rounding alone, a round may take a step more
    assert abs(low.num_matvecs - high.num_matvecs) <= 2


def test_the_same_seed_gives_the_same_bits_and_another_the_same_values():
    A = Known(family("nn", 500))
    first, again, other = hs.eigsh(A, 5), hs.eigsh(A, 5), hs.eigsh(A, 5, seed=1)
    assert torch.equal(first.eigenvectors, again.eigenvectors)
    assert not torch.equal(first.eigenvectors, other.eigenvectors)
    assert (first.eigenvalues - other.eigenvalues).abs().max() <= 1e-4


# --- certificates, restarts, warm starts


def test_without_verification_the_list_is_complete_up_to_copies():
    A = Known(family("mult", N))
    pairs = hs.eigsh(A, 5, verify=False)
    assert pairs.certificate.complete
    assert not pairs.certificate.copies
    assert "(up to copies within ± 1.0e-02, window 1.0e-02)" in str(pairs)
    assert int((pairs.eigenvalues > 9.99).sum()) < 5  # copies are what it does not see
    assert int((hs.eigsh(A, 5).eigenvalues > 9.99).sum()) == 5


@pytest.mark.parametrize("verify", [True, False])
def test_statements_name_the_claim_its_window_and_its_probability(verify):
    pairs = hs.eigsh(Known(family("nn", 500)), 4, verify=verify, delta=0.01)
    bounds = pairs.certificate
    extent = "copies included" if verify else "up to copies within ± 1.0e-02"
    said = re.fullmatch(
        rf"nothing was skipped among the 4 largest \({re.escape(extent)}, window 1.0e-02\); "
        r"all eigenvalues lie in \[(.*), (.*)\] with probability 0.99",
        bounds.statement,
    )
    low, high = map(float, said.groups())
    assert low <= bounds.lower <= low + 1e-4  # rounded outwards, to five digits
    assert high - 1e-3 <= bounds.upper <= high
    assert (bounds.delta, bounds.window) == (0.01, pytest.approx(0.01))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_small_basis_restarts_and_still_finds_everything(kind, which, dtype):
    k = 5 if which == "SA" else 10
    A = Known(family(kind, N), dtype=dtype, rotate=0)
    pairs = hs.eigsh(A, k, which, max_basis=30, max_matvecs=800)
    assert_right(A, pairs, k, which)
    assert pairs.converged.all()


def test_a_restarted_run_without_verification_stops_and_admits_what_it_cannot_prove():
    pairs = hs.eigsh(Known(family("nn", N)), 10, verify=False, max_basis=30, delta=1e-6)
    assert pairs.converged.all()
    assert pairs.num_matvecs < 100
    assert not pairs.certificate.complete
    advice = "verify=True, or a larger max_matvecs or max_basis, excludes skipped eigenvalues"
    assert f"not certified: {advice}" in pairs.notes


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_warm_start_gives_the_same_pairs_certified_for_no_more_products(dtype):
    A = Known(family("nn", N), dtype=dtype, rotate=0)
    cold = hs.eigsh(A, 5)
    for start in (cold.eigenvectors, cold.eigenvectors[:, 0], cold.eigenvectors.double()):
        A.columns = 0
        warm = hs.eigsh(A, 5, start=start)
        assert_right(A, warm, 5, "LA")
        assert warm.certificate.complete
        assert warm.num_matvecs <= cold.num_matvecs + 5


def test_a_wrong_warm_start_does_not_hide_the_largest_eigenvalue():
    A = Known(family("nn", N))
    for verify in (True, False):
        pairs = hs.eigsh(A, 1, start=A.eigenvector(1), verify=verify)
        assert float(pairs.eigenvalues[0]) == pytest.approx(10.0, abs=float(pairs.residuals[0]))


# --- notes


def test_a_crowd_without_a_gap_is_noted_on_the_wanted_side_only():
    values = torch.cat([torch.linspace(0.9, 1, 30), -torch.tensor([9.0, 5.0, 2.0])]).double()
    up, down = hs.eigsh(Known(values), 3), hs.eigsh(Known(values), 3, "SA")
    assert any("eigenvalues lie within a third of the outermost" in note for note in up.notes)
    assert down.notes == ()


def test_noisy_products_are_noted():
    generator = torch.Generator().manual_seed(0)
    M = torch.diag(family("nn", 200))

    def product(V):
        return M @ V + 1e-3 * torch.randn(V.shape, generator=generator, dtype=V.dtype)

    pairs = hs.eigsh(hs.as_operator(product, 200), 3, max_matvecs=60)
    assert any(
        note.startswith("products are noisy: u'Av and v'Au differ by") for note in pairs.notes
    )


# --- faults


def test_an_asymmetric_operator_is_refused_with_the_way_on():
    M = torch.randn(50, 50, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(RuntimeError) as caught:
        hs.eigsh(hs.as_operator(M), 2)
    message = str(caught.value)
    begin = "the operator is not symmetric or not repeatable: u'Av and v'Au differ by "
    end = (
        "% of its size. hs.check_problem(problem), or hs.check_operator(A) for an operator of "
        "your own, names the cause."
    )
    assert message.startswith(begin)
    assert message.endswith(end)
    assert message[len(begin) : -len(end)].isdigit()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_product_that_is_not_finite_is_refused(value):
    with pytest.raises(RuntimeError, match="is NaN or infinite; "):
        hs.eigsh(hs.as_operator(lambda V: V * value, 5), 2)


def interrupted_at(values: torch.Tensor, call: int) -> tuple[hs.SymmetricOperator, list[int]]:
    calls = []

    def product(V):
        calls.append(V.shape[1])
        if len(calls) == call:
            raise KeyboardInterrupt
        return values[:, None] * V

    return hs.as_operator(product, len(values)), calls


@pytest.mark.parametrize("call", [2, 3, 10, 25, -1, 0])
def test_an_interrupt_returns_what_is_finished_with_a_warning(call):
    """In the first run, in the verification and at the product that checks the pairs."""
    values = family("nn", 500)
    undisturbed = hs.eigsh(Known(values), 10).num_matvecs
    call = call if call > 0 else undisturbed + call
    A, calls = interrupted_at(values, call)
    with pytest.warns(UserWarning, match="^interrupted: returning the eigenpairs found so far$"):
        pairs = hs.eigsh(A, 10)
    assert call <= undisturbed
    assert pairs.num_matvecs == call - 1 == len(calls) - 1
    assert len(pairs) == min(10, call - 1)
    assert pairs.certificate.complete == (call == undisturbed)
    assert pairs.notes[0] == "interrupted: residuals are the recurrence's own estimates"
    assert (pairs.eigenvalues <= values[: len(pairs)] + 1e-12).all()
    for i in range(len(pairs)):
        inside = pairs.interval(i)
        assert ((values >= inside.low) & (values <= inside.high)).any()


def test_an_interrupt_before_anything_is_found_goes_on_to_the_caller():
    A, _ = interrupted_at(family("nn", 500), 1)
    with pytest.raises(KeyboardInterrupt):
        hs.eigsh(A, 10)


# --- door


A5 = hs.as_operator(torch.diag(torch.arange(5.0)))
BETWEEN = "must lie between 0 and 1; try tol=1e-3, delta=1e-3."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k=0 eigenpairs of an operator of size n=5; choose 1 <= k <= 5."),
        ({"k": 6}, "k=6 eigenpairs of an operator of size n=5; choose 1 <= k <= 5."),
        ({"k": 2.5}, "k=2.5 eigenpairs of an operator of size n=5; choose 1 <= k <= 5."),
        (
            {"which": "SM"},
            "which='SM'; choose one of 'LA', 'SA', 'LM', 'BE' (as in scipy's eigsh).",
        ),
        ({"tol": 0.0}, f"tol=0.0 and delta=0.001 {BETWEEN}"),
        ({"tol": math.nan}, f"tol=nan and delta=0.001 {BETWEEN}"),
        ({"delta": 1.0}, f"tol=0.001 and delta=1.0 {BETWEEN}"),
        (
            {"max_matvecs": 0},
            "max_matvecs=0 leaves nothing to compute with; give at least 2 k.",
        ),
        (
            {"max_basis": 4},
            "max_basis=4 vectors are too few to restart with k=2; give at least 5.",
        ),
        (
            {"start": torch.ones(4)},
            "start has shape (4,) and its columns add up to a vector of norm nan; give a non-zero "
            "finite vector (5,) or block (5, m).",
        ),
        (
            {"start": torch.zeros(5)},
            "start has shape (5,) and its columns add up to a vector of norm 0; give a non-zero "
            "finite vector (5,) or block (5, m).",
        ),
        (
            {"start": torch.tensor([[1.0, -1.0]]).repeat(5, 1)},
            "start has shape (5, 2) and its columns add up to a vector of norm 0; give a non-zero "
            "finite vector (5,) or block (5, m).",
        ),
        (
            {"start": torch.full((5,), math.inf)},
            "start has shape (5,) and its columns add up to a vector of norm inf; give a non-zero "
            "finite vector (5,) or block (5, m).",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the message is matched in full
        hs.eigsh(A5, **{"k": 2, **arguments})
    assert str(caught.value) == message


def test_a_matrix_may_be_given_as_it_is():
    pairs = hs.eigsh(torch.diag(torch.tensor([1.0, 3.0, 2.0])), 2)
    assert pairs.eigenvalues.tolist() == pytest.approx([3.0, 2.0])


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 3), (9, 6)])
def test_six_pairs_are_found_if_there_are_six(n, k):
    values = torch.arange(1.0, n + 1)
    found = hs.eigsh(torch.diag(values)).eigenvalues.tolist()
    assert found == pytest.approx(values.flip(0).tolist()[:k], rel=1e-5)

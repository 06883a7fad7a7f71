"""Gap counts on spectra whose gaps are known, and what takes a count's clearness away."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hesscope as hs

WITH_GAP = torch.tensor([9.0, 8.0, 7.0, 2.0, 1.8, 1.7, 1.6, 1.5]).double()


def pairs_of(
    values: torch.Tensor,
    residual: float = 0.0,
    *,
    which: str = "LA",
    lower: float = -math.inf,
    complete: bool = True,
) -> hs.Eigenpairs:
    k = len(values)
    certificate = hs.Certificate(lower, float(values.max()), 0.0, complete, True, 1e-3, "")
    residuals = torch.full((k,), residual, dtype=torch.float64)
    return hs.Eigenpairs(
        values, torch.eye(k), residuals, torch.ones(k, dtype=torch.bool), k, certificate, which
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=40, unique=True), st.integers(0, 2**32 - 1)
)
def test_the_count_is_the_place_of_the_largest_ratio_in_any_order(values, seed):
    ordered = np.sort(np.asarray(values))[::-1]
    ratios = ordered[:-1] / ordered[1:]
    shuffled = np.random.default_rng(seed).permutation(ordered)
    found = hs.outliers(torch.from_numpy(np.append(shuffled, [-1e-5, 0.0])), limit=50)
    assert ratios[found.count - 1] == ratios.max() == found.gap_ratio
    assert found.runner_up_ratio == np.sort(ratios)[-2]
    assert found.considered == len(ratios)
    np.testing.assert_array_equal(found.gap_ratios, ratios)


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(1e-6, 1e6))
def test_units_do_not_matter(scale):
    found = hs.outliers(WITH_GAP * scale)
    assert (found.count, found.clear) == (3, True)
    assert found.gap_ratio == pytest.approx(3.5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(1.0, 1e3), min_size=4, max_size=12, unique=True),
    st.floats(0, 0.04),
    st.integers(0, 2**32 - 1),
)
def test_a_clear_count_holds_wherever_the_eigenvalues_lie_in_their_intervals(values, share, seed):
    ordered = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    residual = share * float(ordered[-1])
    found = hs.outliers(pairs_of(ordered, residual))
    rng = np.random.default_rng(seed)
    for _ in range(20):
        truth = ordered + residual * torch.from_numpy(rng.choice([-1.0, 0.0, 1.0], len(ordered)))
        ratio = float(truth[found.count - 1] / truth[found.count])
        assert found.gap_interval.low - 1e-9 <= ratio <= found.gap_interval.high + 1e-9
        if found.clear:
            again = hs.outliers(truth, limit=len(truth))
            assert (again.count, again.clear) == (found.count, True)


def test_errors_widen_the_ratio_and_can_make_it_unclear():
    values = torch.tensor([9.0, 8.0, 5.2, 5.0]).double()
    sharp = hs.outliers(pairs_of(values))
    assert (sharp.count, sharp.clear) == (2, True)
    blurred = hs.outliers(pairs_of(values, 0.2))
    assert blurred.gap_interval.low == pytest.approx(7.8 / 5.4)
    assert blurred.gap_interval.high == pytest.approx(8.2 / 5.0)
    assert blurred.reasons[0] == "its ratio can be as low as 1.44, and 1.5 is asked for"
    assert "λ2/λ3 = 1.54 in [1.44, 1.64]" in str(blurred)


def test_a_near_rival_makes_it_unclear():
    found = hs.outliers(torch.tensor([16.0, 8.0, 3.5, 3.4]))
    assert (found.count, found.runner_up, found.clear) == (2, 1, False)
    assert found.reasons == ("another ratio can be as high as 2, and 1.3 times that is asked for",)


def test_negative_curvature_of_the_size_of_the_gap_makes_it_unclear():
    low = torch.tensor([-2.5], dtype=torch.float64)
    found = hs.outliers(torch.cat([WITH_GAP, low]))
    assert found.count == 3
    assert found.reasons == (
        "negative curvature reaches -2.5: shifts of that size leave a ratio of 1",
    )
    assert hs.outliers(torch.cat([WITH_GAP, low / 10])).clear


@pytest.mark.parametrize("lower", [-2.5, -0.25, 0.0])
def test_pairs_take_the_lower_end_from_their_certificate(lower):
    found = hs.outliers(pairs_of(WITH_GAP, lower=lower))
    assert found.most_negative == lower
    assert found.clear == (lower > -1)


def test_the_lower_end_of_a_list_from_one_side_may_be_unknown():
    found = hs.outliers(pairs_of(WITH_GAP))
    assert math.isnan(found.most_negative)
    assert found.clear


def test_values_within_their_errors_have_no_ratio():
    values = torch.cat([WITH_GAP, torch.tensor([1e-9, 1e-16, -1e-9])]).sort().values
    spectrum = hs.Spectrum(values, 1e-9, 11)
    found = hs.outliers(spectrum)
    assert (found.count, len(found.eigenvalues)) == (3, 8)
    assert found.scope == (
        "looked at 4 gaps (outliers are a minority); 8 eigenvalues above 10 times their error in "
        "the spectrum"
    )


def test_a_bulk_around_zero_has_large_ratios_that_do_not_count():
    bulk = torch.linspace(-0.5, 1.0, 40).double()  # 0.0128 / 0.0077 is the largest within it
    bulk = torch.cat([bulk, torch.tensor([1e-6]).double()])
    found = hs.outliers(torch.cat([WITH_GAP, bulk]))
    assert (found.count, found.clear) == (3, True)
    assert found.scope.startswith("looked at 18 gaps (outliers are a minority); ")
    assert hs.outliers(torch.cat([WITH_GAP, bulk]), limit=100).scope.startswith(
        "looked at 21 gaps (down to |λmin| = 0.5); "
    )


def test_the_number_of_classes_or_a_limit_says_how_far_to_look():
    values = torch.linspace(400, 201, 200).double()
    values[150:] /= 10  # a gap at 150
    assert hs.outliers(values[:198]).considered == 99  # a minority
    assert hs.outliers(torch.cat([values, values])).considered == 100
    assert hs.outliers(values, num_classes=3).considered == 27
    assert hs.outliers(values, limit=180).count == 150
    assert hs.outliers(values, num_classes=10).considered == 100
    assert hs.outliers(pairs_of(values), num_classes=10).count == 150


def test_a_list_of_k_pairs_shows_k_minus_one_gaps_and_says_so():
    found = hs.outliers(pairs_of(WITH_GAP[:4]), num_classes=5)
    assert (found.count, found.considered) == (3, 3)
    assert found.reasons == ("the list ends before the gap at C = 5 (ask for k >= 10)",)
    assert found.scope == (
        "looked at 3 gaps; 4 positive eigenvalues in the 4 pairs from the top (LA), what lies "
        "below was not seen"
    )


def test_only_the_upper_end_of_both_ends_is_counted():
    both = torch.cat([WITH_GAP[:5], torch.tensor([0.1, 0.2, -1.0, -1.5]).double()])
    found = hs.outliers(pairs_of(both, which="BE"))
    assert found.considered == 4
    assert found.most_negative == -1.5
    sizes = torch.tensor([9.0, -8.0, 7.0, 2.0, -1.5, 1.2]).double()
    assert torch.equal(
        hs.outliers(pairs_of(sizes, which="LM")).eigenvalues,
        torch.tensor([9.0, 7, 2, 1.2]).double(),
    )


def test_an_incomplete_list_is_unclear():
    found = hs.outliers(pairs_of(WITH_GAP, complete=False))
    assert found.reasons == ("the list of eigenpairs is not converged and certified complete",)


@pytest.mark.parametrize("values", [[-1.0, -2.0], [1.0, -2.0]])
def test_without_two_positive_eigenvalues_there_is_no_count(values):
    found = hs.outliers(torch.tensor(values))
    assert (found.count, found.clear, found.considered) == (0, False, 0)
    assert str(found).startswith("0 outliers, unclear: no two positive eigenvalues")


def test_one_gap_has_nothing_to_be_compared_with():
    found = hs.outliers(torch.tensor([5.0, 1.0]))
    assert (found.count, found.gap_ratio, found.runner_up) == (1, 5.0, 0)
    assert found.reasons == ("there is no second gap to compare it with",)


def test_eigenpairs_and_spectrum_of_one_operator_agree():
    bulk = torch.linspace(-0.5, 1.0, 40).double()
    A = hs.as_operator(torch.diag(torch.cat([WITH_GAP, bulk])))
    whole, listed = hs.outliers(hs.spectrum(A)), hs.outliers(hs.eigsh(A, k=8))
    assert (whole.count, whole.clear) == (listed.count, listed.clear) == (3, True)
    assert listed.gap_ratio == pytest.approx(whole.gap_ratio, rel=1e-3)
    assert listed.most_negative <= -0.5


def classifier() -> hs.Problem:
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    data = torch.randn(60, 4), torch.arange(60) % 3
    return hs.Problem(model, torch.nn.CrossEntropyLoss(), data)


def test_a_class_decomposition_gives_the_class_count_and_the_classes():
    problem = classifier()
    pairs = hs.eigsh(hs.GaussNewton(problem), k=6)
    parts = hs.class_decomposition(problem, pairs)
    found = hs.outliers(pairs, classes=parts)
    assert found.num_classes == 3
    assert found.class_count == sum(value > 0.5 for value in parts.overlap.tolist())
    assert f"class subspace: {found.class_count} of 6 eigenvectors" in str(found)
    by_tensor = hs.outliers(pairs, 3, classes=parts.overlap)
    assert str(by_tensor) == str(found)


def test_printing_shows_the_count_with_all_that_it_is_compared_with():
    found = hs.outliers(WITH_GAP, num_classes=2, classes=torch.tensor([0.9, 0.2]))
    assert str(found).splitlines() == [
        "3 outliers, clear: gap ratio λ3/λ4 = 3.5, runner-up λ2/λ3 = 1.14",
        "  gap ratios for C = 2 classes: C-1 = 1: 1.12, C = 2: 1.14, C(C-1) = 2: 1.14, C² = 4: "
        "1.11",
        "  class subspace: 1 of 2 eigenvectors lie in it by more than half (squared projection)",
        "  looked at 4 gaps (outliers are a minority); 8 positive eigenvalues in the tensor",
    ]


def test_it_survives_saving(tmp_path):
    found = hs.outliers(pairs_of(WITH_GAP, 0.2), 2, classes=torch.linspace(1, 0, 8))
    loaded = hs.load(hs.save(found, tmp_path))
    assert str(loaded) == str(found)
    assert torch.equal(loaded.overlap, found.overlap)


def refused() -> list[tuple[str, object]]:
    problem = classifier()
    plain = hs.class_decomposition(problem)
    pairs = hs.eigsh(hs.GaussNewton(problem), k=6)
    parts = hs.class_decomposition(problem, pairs)
    return [
        (
            "outliers are counted from the top and these are the smallest eigenvalues "
            '(which="SA"); call hs.eigsh(A, k, which="LA"), or negate the operator.',
            lambda: hs.outliers(pairs_of(WITH_GAP, which="SA")),
        ),
        (
            "1 eigenvalues from the top have no gap; give two or more, k >= 2.",
            lambda: hs.outliers(torch.ones(1)),
        ),
        (
            "eigenvalues are NaN or infinite; hs.check_problem names the cause.",
            lambda: hs.outliers(torch.tensor([1.0, math.nan])),
        ),
        (
            "eigenvalues is a list; give the result of hs.spectrum or hs.eigsh, or a "
            "one-dimensional tensor.",
            lambda: hs.outliers([2.0, 1.0]),
        ),
        (
            "num_classes=1 must be a whole number of at least 2, or None.",
            lambda: hs.outliers(WITH_GAP, 1),
        ),
        (
            "limit=0 gaps leave nothing to compare; give at least 2, or None.",
            lambda: hs.outliers(WITH_GAP, limit=0),
        ),
        (
            "classes holds no overlap; call hs.class_decomposition(problem, pairs) with pairs.",
            lambda: hs.outliers(WITH_GAP, classes=plain),
        ),
        (
            "num_classes=4, but the class means are of 3 classes; leave it.",
            lambda: hs.outliers(pairs, 4, classes=parts),
        ),
        (
            "classes has overlaps of 6 vectors and there are 8 pairs; call "
            "hs.class_decomposition(problem, pairs) with these pairs.",
            lambda: hs.outliers(pairs_of(WITH_GAP), classes=parts),
        ),
    ]


def test_bad_arguments_are_refused_with_the_cure():
    for message, call in refused():
        with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole message is compared
            call()
        assert str(caught.value) == message


def test_what_was_given_is_left_as_it_was():
    spectrum = hs.Spectrum(WITH_GAP.flip(0), 0.0, 8)
    before = replace(spectrum, eigenvalues=spectrum.eigenvalues.clone())
    hs.outliers(spectrum)
    assert torch.equal(before.eigenvalues, spectrum.eigenvalues)

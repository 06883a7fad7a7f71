"""The count on trained classifiers, from the cases of `benchmarks/outliers.py`."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import hesscope as hs

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/outliers.py"))
case, cases = BENCHMARK["case"], BENCHMARK["cases"]


def counted(network, matrix=hs.GaussNewton) -> hs.Outliers:
    spectrum = hs.spectrum(matrix(network.problem), check=False)
    return hs.outliers(spectrum, network.num_classes)


@pytest.mark.parametrize("num_classes", [3, 5, 10])
def test_a_trained_classifier_has_one_outlier_less_than_classes(num_classes):
    network = case("trained", num_classes, 0.3, 300, 0)
    assert 0.3 < network.loss < 1.9
    for matrix in (hs.GaussNewton, hs.Hessian):
        found = counted(network, matrix)
        assert (found.count, found.clear) == (num_classes - 1, True)


def test_the_class_subspace_confirms_it():
    network = case("trained", 3, 0.3, 300, 0)
    pairs = hs.eigsh(hs.GaussNewton(network.problem), k=6)
    parts = hs.class_decomposition(network.problem, pairs)
    found = hs.outliers(pairs, classes=parts)
    assert (found.count, found.clear, found.class_count) == (2, True, 2)


@pytest.mark.parametrize("initial", ["narrow", "torch"])
def test_the_gap_of_gauss_newton_at_initialisation_needs_no_classes_in_the_data(initial):
    found = counted(case("initial", 3, 0.0, 0, 0, initial))
    assert (found.count, found.clear) == (2, True)


def test_negative_curvature_makes_the_hessian_unclear_at_initialisation():
    network = case("initial", 3, 0.3, 0, 0, "torch")
    found = counted(network, hs.Hessian)
    assert not found.clear
    assert found.gap_ratio > 1.5  # the gap alone would have been enough
    assert any(reason.startswith("negative curvature reaches") for reason in found.reasons)


@pytest.mark.slow
def test_nine_of_ten_trained_classifiers_have_a_clear_count_of_one_less_than_classes():
    results = [(network.num_classes, counted(network)) for network in cases("trained")]
    assert len(results) >= 20
    assert all(found.count == C - 1 for C, found in results)
    assert sum(found.clear for _, found in results) >= 0.9 * len(results)


@pytest.mark.slow
@pytest.mark.parametrize("initial", ["narrow", "torch"])
def test_most_hessians_are_unclear_at_initialisation(initial):
    results = [counted(network, hs.Hessian) for network in cases("initial", initial=initial)]
    assert sum(found.clear for found in results) <= 0.12 * len(results)

"""What is printed carries its error and its cost."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hesscope as hs
from hesscope.results.estimate import plus_minus


def test_an_estimate_shows_value_error_and_cost():
    assert str(hs.Estimate(10.0, 0.25, 64)) == "10 ± 2.5e-01 (64 matvecs)"


def test_an_interval_shows_its_ends_and_its_level():
    assert str(hs.Interval(-1.0, 2.5, 0.95)) == "[-1, 2.5] (95 %)"
    assert str(hs.Interval(-math.inf, 2.5)) == "[-inf, 2.5] (certain)"


def test_pairs_show_each_value_with_its_residual_the_cost_and_the_certificate():
    A = hs.as_operator(torch.diag(torch.tensor([5.0, 5.0, 1.0, 0.0]).double()))
    pairs = hs.eigsh(A, 3)
    lines = str(pairs).splitlines()
    assert lines[0] == f"3 eigenpairs (LA), {pairs.num_matvecs} matvecs"
    for i, value in enumerate("551"):
        assert re.fullmatch(rf"    {i + 1}  {value} ± \d\.\de-\d\d", lines[i + 1])
    assert lines[4] == f"  {pairs.certificate}"
    assert len(lines) == 5


def test_pairs_mark_what_has_not_converged_and_add_the_notes():
    certificate = hs.Certificate(-1.0, 9.0, 0.1, False, False, 1e-3, "not certified complete")
    pairs = hs.Eigenpairs(
        torch.tensor([3.0, 2.0]), torch.eye(2), torch.tensor([1e-9, 0.5]),
        torch.tensor([True, False]), 4, certificate, notes=("raise max_matvecs",),
    )  # fmt: skip
    assert str(pairs).splitlines() == [
        "2 eigenpairs (LA), 4 matvecs",
        "    1  3 ± 1.0e-09",
        "    2  2 ± 5.0e-01   not converged",
        "  not certified complete",
        "  note: raise max_matvecs",
    ]


def test_an_exact_spectrum_shows_its_error_cost_and_counts():
    values = torch.tensor([-1.0, 0.0, 0.0, 2.0]).double()
    text = str(hs.Spectrum(values, 1e-9, 4))
    assert text.splitlines() == [
        "exact spectrum of 4 eigenvalues, each ± 1.0e-09, 4 matvecs",
        "  λmax 2   λmin -1   trace 1   Frobenius norm 2.23607",
        "  1 below -2.0e-06, 2 within, 1 above (tau = 1e-6 of the largest |λ|, at least 10 errors)",
    ]


def test_a_check_shows_what_it_cost_found_and_passed():
    note = hs.Finding("kinks", "ReLU is not smooth.", "nothing to do.", fault=False)
    fault = hs.Finding("dropout", "dropout is active.", "call model.eval().")
    check = hs.Check((fault, note), 7, ("linear",))
    assert str(check).splitlines() == [
        "check: 1 fault (7 matvecs)",
        "  FAULT dropout: dropout is active.",
        "      -> call model.eval().",
        "  note  kinks: ReLU is not smooth.",
        "      -> nothing to do.",
        "  passed: linear",
    ]
    assert (check.ok, check.faults) == (False, (fault,))
    assert hs.Check((note,)).ok
    assert str(hs.Check((fault, fault))).startswith("check: 2 faults (")
    assert str(hs.Check(())) == "check: ok (0 matvecs)"


def test_a_verdict_shows_its_confidence_its_numbers_and_its_advice():
    verdict = hs.Verdict("step", "too large", {"2/λ": 0.1}, (), "proven", "halve it")
    assert str(verdict).splitlines() == [
        "step           too large  (proven)",
        "               2/λ = 0.1",
        "               -> halve it",
    ]


@settings(max_examples=200, deadline=None)
@given(value=st.floats(-1e12, 1e12), error=st.floats(1e-12, 1e6))
def test_printing_loses_less_than_the_error(value, error):
    shown, shown_error = plus_minus(value, error).split(" ± ")
    if abs(value) > error and abs(value) / error < 1e10:
        assert abs(float(shown) - value) <= 0.51 * error
    assert float(shown_error) == pytest.approx(error, rel=0.06)


@pytest.mark.parametrize("error", [0.0, math.nan, math.inf, -1.0])
def test_a_value_without_a_finite_error_stands_alone(error):
    assert plus_minus(1 / 3, error) == "0.333333"


def test_an_estimates_interval_is_the_normal_one():
    interval = hs.Estimate(10.0, 2.0).interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((10 - 3.919928, 10 + 3.919928))
    assert 10.0 in interval
    assert 14.0 not in interval
    assert interval.width == pytest.approx(7.839856)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        hs.Estimate(1.0, 1.0).interval(95)
    expected = "level=95 is not a probability between 0 and 1; the usual one is 0.95."
    assert str(caught.value) == expected

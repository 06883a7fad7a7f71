"""Numbers in, claims out: how many eigenvalues stand apart, and when that is left open."""

from __future__ import annotations

import math

import pytest
import torch

import hesscope as hs
from hesscope.diagnosis.outliers import outliers

BULK = [1.0, 0.9, 0.8, 0.7, 0.6]
CLEAR = "{} apart: the next is {} times smaller"
OPEN = "no eigenvalues stand clearly apart: the largest gap is a factor {}, after the first {}"
NONE = "no two positive eigenvalues are known: nothing can be counted"


@pytest.mark.parametrize(
    ("eigenvalues", "claim", "confidence"),
    [
        ([8.0, *BULK], CLEAR.format("1 eigenvalue stands", 8), "measured"),
        ([9.0, 8.0, *BULK], CLEAR.format("2 eigenvalues stand", 8), "measured"),
        ([9.0, 8.0, *BULK, -0.1], CLEAR.format("2 eigenvalues stand", 8), "measured"),
        ([1.6, *BULK], CLEAR.format("1 eigenvalue stands", 1.6), "measured"),
        ([1.4, *BULK], OPEN.format(1.4, 1), "undecided"),  # less than 1.5
        ([9.0, 3.0, *BULK], OPEN.format(3, 1), "undecided"),  # two gaps alike
        ([9.0, 8.0, *BULK, -7.0], OPEN.format(8, 2), "undecided"),  # |λmin| reaches into it
        (BULK, OPEN.format(1.14, 3), "undecided"),
        ([1.0, -1.0], NONE, "undecided"),
        ([0.0, 0.0, 0.0], NONE, "undecided"),
        ([-1.0, -2.0], NONE, "undecided"),
    ],
)
def test_the_claim_follows_from_the_gaps(eigenvalues, claim, confidence):
    verdict = outliers(hs.outliers(torch.tensor(eigenvalues, dtype=torch.float64)))
    assert verdict.name == "outliers"
    assert verdict.claim == claim
    assert verdict.confidence == confidence
    assert verdict.finding is False
    assert bool(verdict.advice) is (confidence == "undecided")
    assert verdict.source


def test_what_speaks_against_a_gap_stands_with_it():
    found = hs.outliers(torch.tensor([9.0, 3.0, *BULK], dtype=torch.float64))
    assert found.reasons
    assert outliers(found).assumptions == (found.scope, *found.reasons)


def test_the_evidence_holds_the_known_numbers_only():
    values = torch.tensor([9.0, 8.0, *BULK], dtype=torch.float64)
    plain = outliers(hs.outliers(values)).evidence
    assert plain == pytest.approx({"gap_ratio": 8.0, "runner_up_ratio": 1.125})
    overlap = torch.tensor([0.9, 0.8, 0.1, 0.0, 0.0, 0.0, 0.0])
    pairs = hs.eigsh(hs.as_operator(torch.diag(values)), k=7)
    classes = outliers(hs.outliers(pairs, num_classes=3, classes=overlap)).evidence
    assert classes["classes"] == 3
    assert classes["class_count"] == 2
    nothing = outliers(hs.outliers(torch.tensor([-1.0, -2.0]))).evidence
    assert not any(math.isnan(number) for number in nothing.values())
    assert nothing == {}

"""Nearly every planted fault is called by its name, and no healthy problem is called faulty."""

from __future__ import annotations

import pytest
import torch

from tests.planted.census import DTYPES, names_found
from tests.planted.faults import FAULTS
from tests.planted.healthy import HEALTHY

SEEDS = 3
FOUND = 0.95  # of all faults, seeds and precisions


def test_there_are_faults_enough():
    assert len(FAULTS) >= 40
    assert len({finding for finding, _ in FAULTS.values()}) >= 8


@pytest.mark.parametrize("fault", list(FAULTS)[::3])
def test_a_planted_fault_is_called_by_its_name(fault):
    assert names_found(fault, torch.float32, 0) == FAULTS[fault][0]


@pytest.mark.parametrize("name", list(HEALTHY)[::3])
def test_what_looks_suspicious_is_not_called_faulty(name):
    assert names_found(name, torch.float32, 0) == ""


@pytest.mark.slow
def test_nearly_all_planted_faults_are_called_by_their_names():
    asked = [(name, dtype, seed) for name in FAULTS for dtype in DTYPES for seed in range(SEEDS)]
    wrong = [one for one in asked if names_found(*one) != FAULTS[one[0]][0]]
    assert len(wrong) <= (1 - FOUND) * len(asked), wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY)
def test_no_healthy_problem_is_called_faulty(name):
    found = [names_found(name, dtype, seed) for dtype in DTYPES for seed in range(SEEDS)]
    assert set(found) == {""}

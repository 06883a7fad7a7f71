"""The clinic of spikes: planted causes are named, and nothing is claimed on healthy runs.

`python -m tests.spikes` prints the counts, and how early each spike was announced.
"""

from __future__ import annotations

import pytest

from tests.spikes.cases import CASES

SEEDS = 3
FAST = ("β₂ too large, Adam", "corrupted batch", "exploding layer, its lr x 60", "healthy: Adam")
NAMED, WRONG, ANNOUNCED = 0.9, 0.05, 0.8


@pytest.mark.parametrize("name", FAST)
def test_a_planted_cause_is_named(name):
    found = CASES[name].look(0)
    assert found.cause == CASES[name].cause, str(found)
    assert found.healthy is not bool(CASES[name].cause)


@pytest.mark.slow
def test_the_clinic_over_several_seeds():
    found = [(case, case.look(seed)) for case in CASES.values() for seed in range(SEEDS)]
    planted = [(case, one) for case, one in found if case.cause]
    assert len({case.cause for case, _ in planted}) >= 6
    assert [case.name for case, one in found if not case.cause and not one.healthy] == []
    named = sum(one.cause == case.cause for case, one in planted)
    wrong = sum(one.cause not in (case.cause, "") for case, one in planted)
    assert named >= NAMED * len(planted)
    assert wrong <= WRONG * len(planted)
    adam = [one for case, one in planted if case.adam]
    assert sum(one.lead > 0 for one in adam) >= ANNOUNCED * len(adam)

"""The clinic of sanity: what is planted stands on top, and healthy runs raise no alarm.

`python -m tests.clinic --sanity` prints the counts.
"""

from __future__ import annotations

import pytest

from tests.clinic.sanity import CASES, named
from tests.thinning import thinned

SEEDS, LEAST = 10, 0.95


def test_the_clinic_of_sanity_is_large_enough():
    assert sum(bool(case.causes) for case in CASES) >= 20
    assert sum(not case.causes for case in CASES) >= 10


@pytest.mark.parametrize("case", thinned(CASES, 2), ids=lambda case: case.name)
def test_what_is_planted_stands_on_top(case):
    result, why = named(case, case.examine(0))
    assert result == "right", why


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_planted_stands_on_top_over_ten_seeds(case):
    found = [named(case, case.examine(seed)) for seed in range(SEEDS)]
    right = sum(result == "right" for result, _ in found)
    assert right == SEEDS if not case.causes else right >= SEEDS - 1, found


@pytest.mark.parametrize("name", ["healthy: autoencoder", "frozen head"])
def test_the_clinic_notices_what_was_not_planted(name):
    cases = {case.name: case for case in CASES}
    examined = cases["leak: one-hot"].examine(0)
    assert named(cases[name], examined)[0] == "wrong"

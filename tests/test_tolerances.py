"""The helpers that say what the other tests may tolerate."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from tests.tolerances import most_misses, rounding, standard_error


@pytest.mark.parametrize("runs", [1, 20, 500])
@pytest.mark.parametrize("probability", [0.001, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("level", [1e-3, 0.05])
def test_most_misses_is_the_binomial_quantile(runs, probability, level):
    assert most_misses(runs, probability, level) == stats.binom.ppf(1 - level, runs, probability)


def test_rounding_is_proportional_to_size_and_to_eps():
    double = rounding(torch.float64, 100, 3.0)
    assert double == pytest.approx(300 * 2.0**-52)
    assert rounding(torch.float32, 100, 3.0) == double * 2**29


def test_standard_error_of_a_fair_coin():
    assert standard_error(100, 0.5) == 0.05

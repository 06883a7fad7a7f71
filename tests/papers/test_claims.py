"""Every rule of the claims table, numbers -> holds?."""

import math

import pytest
import torch
from sagun import claims

SIZES = [10, 100]
ALL, SOME = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)


def rows(*values):
    return torch.tensor(values).double()


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (claims.bulk_grows(SIZES, rows([1, 2, 3], [50, 60, 70]), ""), "yes"),
        (claims.bulk_grows(SIZES, rows([1, 2, 8], [50, 60, 70]), ""), "in part"),
        (claims.bulk_grows(SIZES, rows([5, 5, 5], [50, 50, 50]), ""), "no"),  # equal shares
        (claims.bulk_grows(SIZES, rows([5, 5, 5], [4, 4, 4]), ""), "no"),
        (claims.bulk_surely_grows(SIZES, rows(5, 60), rows(5, 90), ""), "yes"),
        (claims.bulk_surely_grows(SIZES, rows(5, 40), rows(5, 90), ""), "in part"),
        (claims.bulk_surely_grows(SIZES, rows(2, 4), rows(5, 90), ""), "no"),
        (claims.top_does_not_grow(SIZES, [1.0, 1.05], ""), "yes"),
        (claims.top_does_not_grow(SIZES, [1.0, 1.4], ""), "in part"),
        (claims.top_does_not_grow(SIZES, [1.0, 1.6], ""), "no"),
        (claims.isolated_stay(SIZES, rows([2, 2, 2], [2, 3, 2]), ALL), "yes"),
        (claims.isolated_stay(SIZES, rows([2, 2, 2], [2, 3, 2]), SOME), "undecided"),
        (claims.isolated_stay(SIZES, rows([2, 2, 2], [5, 5, 5]), SOME), "undecided"),
        (claims.isolated_stay(SIZES, rows([2, 2, 2], [5, 5, 5]), ALL), "no"),
        (claims.tops_stay(SIZES, rows([1, 2, 3], [1, 2, 3])), "yes"),
        (claims.tops_stay(SIZES, rows([1, 2, 3], [3.0, 3.01, 3.02])), "in part"),
        (claims.tops_stay(SIZES, rows([1, 1.1, 1.2], [9, 9.1, 9.2])), "no"),
        (claims.data_matter(["a", "b"], rows([1, 2], [3, 4]), ""), "yes"),
        (claims.data_matter(["a", "b"], rows([1, 1, 9], [3, 4, 5]), ""), "in part"),
        (claims.data_matter(["a", "b"], rows([1, 2], [2, 3]), ""), "no"),
        (claims.classes_count([2, 3], rows([2, 2, 1], [3, 3, 3]), ALL, ""), "yes"),
        (claims.classes_count([2, 3], rows([1, 1, 1], [2, 2, 2]), ALL, ""), "in part"),
        (claims.classes_count([2, 3], rows([1, 1, 1], [1, 1, 1]), ALL, ""), "no"),
        (claims.classes_count([2, 3], rows([2, 2, 1], [3, 3, 3]), SOME, ""), "undecided"),
        (claims.classes_count([2], rows([2, 2, 1]), ALL[:1], ""), "yes"),
        (claims.classes_count([2], rows([1, 1, 1]), ALL[:1], ""), "no"),
        (claims.training_concentrates(rows(1, 2), rows(3, 4), 5, ""), "yes"),
        (claims.training_concentrates(rows(1, 2, 3), rows(3, 4, 3), 5, ""), "in part"),
        (claims.training_concentrates(rows(1, 2), rows(1, 2), 5, ""), "no"),
        (claims.negative_remain(rows(-1, -2), rows(0.1, 0.1), rows(5, 5), ""), "yes"),
        (claims.negative_remain(rows(-1, -2, 0), rows(1e-9, 1, 0), rows(5, 5, 5), ""), "in part"),
        (claims.negative_remain(rows(-0.01, 1), rows(0.1, 0.1), rows(5, 5), ""), "no"),
        (claims.not_critical(rows(1e-4), rows(1e-15), ""), "yes"),
        (claims.not_critical(rows(1e-4, 1e-4, 1e-15), rows(1e-15, 1e-15, 1e-15), ""), "in part"),
        (claims.not_critical(rows(1e-15), rows(1e-15), ""), "no"),
        (claims.no_critical_point_near(rows(1), rows(0.1), rows(5), rows(6), ""), "yes"),
        (claims.no_critical_point_near(rows(1), rows(0.9), rows(5), rows(6), ""), "no"),
        (claims.overlap_grows([1, 2, 3], rows([1, 1], [2, 2], [3, 3]), "λ1", 1), "yes"),
        (claims.overlap_grows([1, 2, 3], rows([1, 1], [4, 4], [3, 3]), "λ1", 1), "in part"),
        (claims.overlap_grows([1, 2], rows([1, 3], [2, 4]), "λ1", 1), "no"),
        (claims.not_the_optimiser([0.1, 1.0], rows([1, 1, 1], [1, 1.1, 1])), "yes"),
        (claims.not_the_optimiser([0.1, 1.0], rows([9, 9, 9], [1, 1, 1])), "in part"),
        (claims.not_the_optimiser([0.1, 1.0], rows([9, 9, 9], [2, 2, 2])), "no"),
        (claims.norms_similar([1, 2], rows([1, 1], [1.2, 1.4]), 1), "yes"),
        (claims.norms_similar([1, 2], rows([1, 1], [2, 2]), 1), "in part"),
        (claims.norms_similar([1, 2], rows([1, 1], [9, 9]), 1), "no"),
        (claims.line_is_flat(rows([0, 0.001]), rows(2)), "yes"),
        (claims.line_is_flat(rows([0, 0], [0, 0], [1, 0]), rows(2, 2, 2)), "in part"),
        (claims.line_is_flat(rows([0, 1]), rows(2)), "no"),
        (claims.line_decreases(rows([2, 1], [2, 1]), rows([0, 1], [0, 1]), ""), "yes"),
        (claims.line_decreases(rows([2, 1], [2, 1], [2, 3]), rows([0], [0], [0]), ""), "in part"),
        (claims.line_decreases(rows([2, 3]), rows([0, 1]), ""), "no"),
        (claims.very_singular(rows(0.9, 0.6), ""), "yes"),
        (claims.very_singular(rows(0.9, 0.4), ""), "in part"),
        (claims.very_singular(rows(0.1, 0.4), ""), "no"),
        (claims.starts_matter_little(rows(1, 1.1, 1.2)), "yes"),
        (claims.starts_matter_little(rows(1, 1.5, 2.2)), "in part"),
        (claims.starts_matter_little(rows(1, 5, 20)), "no"),
    ],
)  # fmt: skip
def test_each_rule_decides_as_its_docstring_says(found, holds):
    assert found.holds == holds
    assert found.claim
    assert found.measured


def test_ranges_are_median_least_and_most():
    assert claims.spread(rows(3, 1, 2)) == "2 [1, 3]"
    assert claims.spread(torch.tensor(0.25)) == "0.25"
    assert claims.spread(rows(math.inf, 1, math.inf)) == "inf [1, inf]"
    assert claims.spread(rows(math.inf, math.inf)) == "inf"
    assert claims.spread(rows(7_366, 0.0012345)) == "3,683 [0.00123, 7,366]"
    assert "nan" in claims.spread(torch.tensor([math.nan, 1.0]))


def test_counts_of_seeds_are_shown_by_value():
    found = claims.classes_count([2], rows([2, 2, 2, 1]), ALL[:1], "")
    assert found.measured == "C = 2: 2 in 75%, 1 in 25%, clear in 100%"

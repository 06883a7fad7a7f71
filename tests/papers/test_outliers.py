"""Rules of the study of outliers."""

import torch
from top import levels, walks


def test_gains_are_shares_of_plain_descent():
    f = {"plain": torch.tensor([[2.0, 1.0]]), "top only": torch.tensor([[2.0, 1.9]])}
    assert abs(float(walks._gains(f)["top only"]) - 0.1) < 1e-6


def test_the_best_rate_ignores_divergence():
    losses = torch.tensor([[0.5, 0.2, torch.nan], [torch.inf, 0.4, 0.3]])
    assert torch.equal(walks.best(losses), torch.tensor([0.2, 0.3]))


def test_levels_are_apart_where_the_least_class_stands_above_all_pairs():
    f = {"by_class": torch.tensor([[3.0, 2.0]]), "by_pair": torch.tensor([[1.0, 0.5]])}
    assert float(levels.apart(f)) == 2

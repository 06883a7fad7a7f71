"""Formulas of the study of H = G + R."""

import math

import pytest
import torch
from split import kernel, linear

import hesscope as hs


@pytest.mark.parametrize("layers", linear.LAYERS.values())
@pytest.mark.parametrize("chosen", [(0, 1), (0, 2), (1,), ()])
def test_sets_of_principal_directions_are_critical_points(layers, chosen):
    X, Y = linear.data(0)
    e = linear.critical_point(layers, X, Y, chosen)
    loss = float(hs.ensemble.losses(e, X, Y, loss="mse")[0])
    assert abs(loss / linear.critical_loss(X, Y, chosen) - 1) < 1e-12
    assert float(hs.ensemble.gradients(e, X, Y, loss="mse").abs().max()) < 1e-13


def test_the_best_map_of_rank_two_is_of_the_first_two_directions():
    X, Y = linear.data(1)
    best = linear.critical_loss(X, Y, (0, 1))
    assert best < min(linear.critical_loss(X, Y, s) for s in ((0, 2), (1, 2), (0,), ()))
    g = torch.Generator().manual_seed(0)
    B = linear.directions(X, Y)[0]
    for _ in range(20):  # other maps of rank two
        Q = torch.linalg.qr(torch.randn(3, 2, generator=g, dtype=torch.float64)).Q
        assert float((X @ B @ Q @ Q.T - Y).square().mean()) > best


def test_slope_of_a_power_of_the_width():
    found = {w: {"d": torch.tensor([3.0, 5.0]).double() / math.sqrt(w)} for w in (4, 16, 64)}
    assert torch.allclose(kernel._slopes(found, "d"), torch.tensor([-0.5, -0.5]).double())

"""Closed forms and autograd agree on every activation, kinks and far ends included."""

import pytest
import torch

from hesscope.derivatives.activations import ACTIVATIONS, GELU_TANH
from hesscope.derivatives.by_autograd import slope, slope_and_curvature

Z = torch.cat([torch.linspace(-6, 6, 49), torch.tensor([-300.0, 25.0, 300.0])]).double()
EPS = torch.finfo(torch.float64).eps


@pytest.mark.parametrize("name", [*ACTIVATIONS, "gelu by tanh"])
def test_value_slope_and_curvature_are_torchs(name):
    phi = ACTIVATIONS.get(name, GELU_TANH)
    module = phi.module()
    first, second = slope_and_curvature(module, Z)
    assert torch.equal(phi.value(Z), module(Z))
    assert torch.allclose(phi.slope(Z), first, rtol=0, atol=16 * EPS)
    assert torch.allclose(phi.backward(Z, Z), Z * first, rtol=0, atol=16 * EPS * 300)
    found = torch.zeros_like(Z) if phi.second is None else phi.second(Z)
    assert torch.allclose(found, second, rtol=0, atol=64 * EPS)
    assert torch.allclose(slope(module, Z), first, rtol=0, atol=4 * EPS)


def test_a_function_in_place_and_without_gradients_around_is_differentiated_all_the_same():
    with torch.no_grad():
        first, second = slope_and_curvature(torch.nn.ELU(inplace=True), Z)
    below = Z < 0
    assert torch.allclose(first, torch.where(below, Z.exp(), 1.0), rtol=0, atol=4 * EPS)
    assert torch.allclose(second, torch.where(below, Z.exp(), 0.0), rtol=0, atol=4 * EPS)

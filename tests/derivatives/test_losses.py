"""Closed forms in the outputs against autograd, with the classes along dimension 1."""

import pytest
import torch
from torch.nn import functional as F

from hesscope.derivatives.by_autograd import hessian_blocks, hessian_product
from hesscope.derivatives.losses import (
    softmax_gradient,
    softmax_hessian,
    softmax_product,
    softmax_root,
    squared_error_gradient,
)

SHAPES = [(4, 3), (4, 3, 5)]


def given(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_torchs_losses(shape):
    z, a = given(shape).requires_grad_(), given(shape, 1).square()
    (expected,) = torch.autograd.grad(F.cross_entropy(z, a, reduction="sum"), z)
    found = softmax_gradient(z.detach(), a, a.sum(1, keepdim=True))
    assert torch.allclose(found, expected, rtol=0, atol=1e-14)
    (expected,) = torch.autograd.grad(F.mse_loss(z, a, reduction="sum") / shape[1], z)
    found = squared_error_gradient(z.detach(), a)
    assert torch.allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_product_and_dense_hessian_of_softmax_are_one(shape):
    p, U = given(shape).softmax(1), given(shape, 1)
    dense = torch.einsum("nij...,nj...->ni...", softmax_hessian(p), U)
    assert torch.allclose(softmax_product(p, U), dense, rtol=0, atol=1e-14)


def test_the_root_squared_is_the_hessian_also_where_classes_have_vanished():
    p = torch.cat([given((4, 3)).softmax(1), torch.eye(3).double()])
    R = softmax_root(p)
    assert torch.allclose(R @ R.mT, softmax_hessian(p), rtol=0, atol=1e-14)


def test_blocks_by_autograd_are_the_closed_form_and_zero_for_a_constant_gradient():
    z = given((4, 3)).requires_grad_()
    loss = F.cross_entropy(z, torch.tensor([0, 2, 1, 1]), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
    expected = softmax_hessian(z.detach().softmax(1))
    assert torch.allclose(hessian_blocks(gradient, z), expected, rtol=0, atol=1e-14)
    (gradient,) = torch.autograd.grad(z.sum(), z, create_graph=True)
    assert torch.equal(hessian_product(gradient, z, z.detach()), torch.zeros(4, 3).double())

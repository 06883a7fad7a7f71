"""Torch's own double backward, which the closed-form kernels are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from hesscope.autodiff.graph import node_names
from hesscope.autodiff.kernels import fast_second_derivatives

EXACT = 1e-12  # relative, in float64


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def flat(tensors) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def gradient_graph(loss, leaves):
    return torch.autograd.grad(
        loss(), leaves, create_graph=True, allow_unused=True, materialize_grads=True
    )


def derivatives(loss, leaves, seed=0):
    """Gradient, product with a random vector, and the names of the gradient's nodes."""
    g = gradient_graph(loss, leaves)
    generator = torch.Generator().manual_seed(seed)
    v = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in leaves]
    active = [i for i, piece in enumerate(g) if piece.requires_grad]
    product = torch.autograd.grad(
        [g[i] for i in active],
        leaves,
        [v[i] for i in active],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return flat(g).detach(), flat(product), node_names(g)


def assert_same_as_stock(loss, leaves, marks=()):
    expected_gradient, expected, _ = derivatives(loss, leaves)
    value = loss().detach()
    with fast_second_derivatives():
        assert relative(loss().detach(), value) <= EXACT
        gradient, product, names = derivatives(loss, leaves)
    assert relative(gradient, expected_gradient) <= EXACT
    assert relative(product, expected) <= EXACT
    for mark in marks:
        assert any(mark in name for name in names), (mark, sorted(names))

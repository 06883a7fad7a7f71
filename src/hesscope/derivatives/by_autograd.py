"""Derivatives of functions that are known only by calling them: any activation, any loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def slope(activation: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """φ'(z), entry by entry, with kinks treated as in training.

    >>> slope(torch.relu, torch.tensor([-1.0, 0.0, 2.0]))
    tensor([0., 0., 1.])
    """
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        return _slope(activation, point, create_graph=False)


def slope_and_curvature(activation: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """φ'(z) and φ''(z), entry by entry.

    >>> slope_and_curvature(torch.square, torch.tensor([3.0]))
    (tensor([6.]), tensor([2.]))
    """
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        first = _slope(activation, point, create_graph=True)
    return first.detach(), hessian_product(first, point, torch.ones_like(point))


def hessian_product(gradient: Tensor, point: Tensor, u: Tensor) -> Tensor:
    """∂(gradient·u)/∂point, in the shape of the point; zero where the gradient is constant.

    For a u that is the same in all items this gives the same column of all blocks at once, where
    the function is a sum over items. The graph of the gradient is kept.
    """
    if not gradient.requires_grad:
        return torch.zeros_like(point)
    (product,) = torch.autograd.grad(
        gradient, point, u, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return product


def hessian_blocks(gradient: Tensor, point: Tensor) -> Tensor:
    """∂²ℓ_n/∂z_n² (N, C, C) of a sum Σ_n ℓ_n(z_n), from its gradient; C backward passes."""
    unit = torch.eye(point.shape[1], dtype=point.dtype, device=point.device)
    return torch.stack([hessian_product(gradient, point, e.expand_as(point)) for e in unit], 2)


def _slope(activation: Callable[[Tensor], Tensor], point: Tensor, *, create_graph: bool) -> Tensor:
    total = activation(point * 1.0).sum()  # not a leaf: it may work in place
    (first,) = torch.autograd.grad(total, point, create_graph=create_graph)
    return first

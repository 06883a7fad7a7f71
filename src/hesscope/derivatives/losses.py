"""Softmax cross-entropy and squared error: derivatives in the outputs, item by item.

The C outputs of an item lie along dimension 1; what comes after it, if anything, counts items, too.
"""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_gradient(z: Tensor, a: Tensor, mass: Tensor | None = None) -> Tensor:
    """m p - a of ℓ = -Σ_c a_c log p_c, where p = softmax z and the mass m = Σ_c a_c, 1 by default.

    >>> softmax_gradient(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    tensor([[-0.5000,  0.5000]])
    """
    p = z.softmax(1)
    return (p if mass is None else p.mul_(mass)).sub_(a)


def softmax_product(p: Tensor, U: Tensor) -> Tensor:
    """(diag p - p pᵀ) u = p ∘ (u - p·u)."""
    return p * (U - (p * U).sum(1, keepdim=True))


def softmax_hessian(p: Tensor) -> Tensor:
    """diag p - p pᵀ, (items, C, C, ...), from p (items, C, ...).

    >>> softmax_hessian(torch.tensor([[0.5, 0.5]]))
    tensor([[[ 0.2500, -0.2500],
             [-0.2500,  0.2500]]])
    """
    H = -p[:, :, None] * p[:, None]
    H.diagonal(dim1=1, dim2=2).add_(p.movedim(1, -1))
    return H


def softmax_root(p: Tensor) -> Tensor:
    """R of shape (items, C, C - 1) with diag p - p pᵀ = R Rᵀ, from p (items, C).

    R = diag(√p) Q, with Q an orthonormal basis of √p^⊥: the last C - 1 columns of the Householder
    reflection that maps √p to a unit vector.
    """
    s = p.sqrt()
    v = s.clone()
    v[:, 0] += 1.0  # √p is non-negative, so this sum never cancels
    beta = 2.0 / v.square().sum(1)
    unit = torch.eye(s.shape[1], dtype=s.dtype, device=s.device)
    reflection = unit - beta[:, None, None] * v[:, :, None] * v[:, None, :]
    return s[:, :, None] * reflection[:, :, 1:]


def softmax_root_product(logarithms: Tensor, U: Tensor) -> Tensor:
    """R u = √p ∘ u - p (√p·u) with diag p - p pᵀ = R Rᵀ, from log p; differentiable at p = 0, too.

    >>> R = softmax_root_product(torch.tensor([[0.5, 0.5]]).log(), torch.eye(2)).T
    >>> (R @ R.T).round(decimals=6)
    tensor([[ 0.2500, -0.2500],
            [-0.2500,  0.2500]])
    """
    s = (logarithms / 2).exp()
    return s * U - logarithms.exp() * (s * U).sum(1, keepdim=True)


def squared_error_gradient(z: Tensor, t: Tensor) -> Tensor:
    """2 (z - t) / C of ℓ = |z - t|²/C, whose Hessian is 2 I / C."""
    return (z - t).mul_(2 / z.shape[1])

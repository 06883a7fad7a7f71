"""The control: a random cubic form on a sphere, where random-matrix theory is known to hold.

f(x) = Σ J_ijk x_i x_j x_k / N on |x|² = N with independent normal J: the spherical 3-spin model.
The Hessian at a critical point is a Gaussian symmetric matrix less 3 f/N times the identity, so its
semicircle moves to the left as the loss rises (Auffinger, Ben Arous and Cerny 2013).
"""

from __future__ import annotations

import torch
from torch import Tensor

from stationary.finder import Field


def field(N: int, seed: int = 0) -> Field:
    """Losses f/N, and gradient and Hessian of f within the sphere; one zero lies along x."""
    generator = torch.Generator().manual_seed(seed)
    J = torch.randn(N, N, N, generator=generator, dtype=torch.float64)
    orders = (0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)
    S = sum(J.permute(order) for order in orders) / 6

    def bent(x: Tensor) -> Tensor:
        return torch.einsum("ijk,bk->bij", S, x)

    def losses(x: Tensor) -> Tensor:
        return torch.einsum("bij,bi,bj->b", bent(x), x, x) / N**2

    def gradients(x: Tensor) -> Tensor:
        g = 3 * torch.einsum("bij,bj->bi", bent(x), x) / N
        return g - x * (g * x).sum(1, keepdim=True) / N

    def hessians(x: Tensor) -> Tensor:
        P = torch.eye(N, dtype=torch.float64) - x[:, :, None] * x[:, None, :] / N
        return P @ (6 * bent(x) / N) @ P - 3 * losses(x)[:, None, None] * P

    def move(x: Tensor, d: Tensor) -> Tensor:
        y = x + d
        return y * (N**0.5 / y.norm(dim=1, keepdim=True))

    return Field(losses, gradients, hessians, move)


def starts(N: int, num: int, seed: int = 1) -> Tensor:
    """Points of the sphere from which descent has gone shorter or longer ways: (num, N)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, N, generator=generator, dtype=torch.float64)
    x *= N**0.5 / x.norm(dim=1, keepdim=True)
    on, out = field(N), x.clone()
    for step in range(30):
        rows = torch.arange(num) % 30 > step
        out[rows] = on.move(out[rows], -0.05 * on.gradients(out[rows]))
    return out

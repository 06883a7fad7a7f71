"""Activations with their first and second derivatives in closed form, entry by entry.

At a kink the derivative is that of the side below, as in torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

aten = torch.ops.aten
GELU_CUBE = 0.044715  # of GELU by tanh (Hendrycks and Gimpel 2016)


@dataclass(frozen=True)
class Activation:
    """φ as torch computes it: φ(z), (g, z) -> g φ'(z), and φ''(z) where it is not zero."""

    module: Callable[[], nn.Module]
    value: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]
    second: Callable[[Tensor], Tensor] | None = None

    def slope(self, z: Tensor) -> Tensor:
        """φ'(z)."""
        return self.backward(torch.ones_like(z), z)


def _gelu_second(z: Tensor) -> Tensor:
    """(zΦ)'' = φ(z) (2 - z²), with φ and Φ the standard normal density and distribution."""
    square = z * z
    return torch.exp(square * -0.5) * (2 - square) / math.sqrt(2 * math.pi)


def _gelu_tanh_second(z: Tensor) -> Tensor:
    """(z (1 + tanh v)/2)'' = (1 - tanh² v) (v' + z v''/2 - z v'² tanh v), v = √(2/π) (z + c z³).

    Beyond 30, where powers of z would overflow, 1 - tanh² is zero.
    """
    z = z.clamp(-30, 30)
    square, root = z * z, math.sqrt(2 / math.pi)
    slope = root * (1 + 3 * GELU_CUBE * square)
    t = torch.tanh(root * z * (1 + GELU_CUBE * square))
    return (1 - t * t) * (slope + 3 * root * GELU_CUBE * square - z * slope * slope * t)


def _silu_second(z: Tensor) -> Tensor:
    """(zσ)'' = σ (1 - σ) (2 + z (1 - 2σ)), with σ the logistic function."""
    s = torch.sigmoid(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


ACTIVATIONS = {
    "identity": Activation(nn.Identity, lambda z: z, lambda g, _: g),
    "relu": Activation(nn.ReLU, torch.relu, lambda g, z: aten.threshold_backward(g, z, 0)),
    "leaky_relu": Activation(
        nn.LeakyReLU, F.leaky_relu, lambda g, z: aten.leaky_relu_backward(g, z, 0.01, False)
    ),
    "tanh": Activation(
        nn.Tanh,
        torch.tanh,
        lambda g, z: g * (1 - z.tanh().square()),
        lambda z: -2 * z.tanh() * (1 - z.tanh().square()),
    ),
    "sigmoid": Activation(
        nn.Sigmoid,
        torch.sigmoid,
        lambda g, z: g * z.sigmoid() * (-z).sigmoid(),
        lambda z: z.sigmoid() * (-z).sigmoid() * (1 - 2 * z.sigmoid()),
    ),
    "softplus": Activation(
        nn.Softplus,
        F.softplus,
        lambda g, z: aten.softplus_backward(g, z, 1, 20),
        lambda z: torch.where(z > 20, 0.0, z.sigmoid() * (-z).sigmoid()),  # linear above, as torch
    ),
    "gelu": Activation(nn.GELU, F.gelu, lambda g, z: aten.gelu_backward(g, z), _gelu_second),
    "silu": Activation(nn.SiLU, F.silu, lambda g, z: aten.silu_backward(g, z), _silu_second),
}

GELU_TANH = Activation(
    lambda: nn.GELU("tanh"),
    lambda z: F.gelu(z, approximate="tanh"),
    lambda g, z: aten.gelu_backward(g, z, approximate="tanh"),
    _gelu_tanh_second,
)

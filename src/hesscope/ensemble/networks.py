"""An ensemble: networks of one shape, the parameters of each in one row of a tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from hesscope.derivatives.activations import ACTIVATIONS
from hesscope.system.contexts import public, public_methods

_STREAM = 1 << 63  # keeps the streams of initial points apart from those of hesscope.probes


@public_methods
@dataclass(frozen=True)
class Ensemble:
    """Networks Linear, φ, Linear, φ, ..., Linear of the same widths, one row of θ for each.

    A row is in the order of `torch.nn.Sequential`'s parameters: the weight (out, in) and then the
    bias (out,) of each layer.

    Raises:
        ValueError: if the widths, the activation or the shape of theta make no networks.
    """

    layers: tuple[int, ...]  # widths from inputs to outputs: (2, 6, 6, 2)
    activation: str
    theta: Tensor  # (num, n)

    def __post_init__(self) -> None:
        _check_layers(self.layers)
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            msg = f"activation={self.activation!r} is not known; there are {known}."
            raise ValueError(msg)
        n = num_parameters(self.layers)
        if self.theta.ndim != 2 or self.theta.shape[1] != n or len(self.theta) == 0:
            msg = (
                f"theta has shape {tuple(self.theta.shape)}; networks {self.layers} have {n} "
                f"parameters, so it must be (num, {n})."
            )
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.theta)

    @property
    def n(self) -> int:
        """The number of parameters of one network."""
        return self.theta.shape[1]

    def member(self, i: int) -> nn.Sequential:
        """Network i as a module, with a copy of its parameters.

        >>> e = initialise((2, 6, 6, 2), 3, seed=0)
        >>> model = e.member(1)
        >>> bool((nn.utils.parameters_to_vector(model.parameters()) == e.theta[1]).all())
        True
        """
        modules: list[nn.Module] = []
        for W, b in zip(*weights(self.theta[[i]].detach(), self.layers), strict=True):
            linear = nn.Linear(1, 1, device="meta")  # its own draw would move the global generator
            linear.in_features, linear.out_features = W.shape[2], W.shape[1]
            linear.weight, linear.bias = (
                nn.Parameter(W[0].clone()),
                nn.Parameter(b[0, :, 0].clone()),
            )
            modules += [linear, ACTIVATIONS[self.activation].module()]
        return nn.Sequential(*modules[:-1])


@public
def initialise(
    layers: Sequence[int],
    num: int,
    *,
    seed: int,
    radius: float | None = None,
    activation: str = "relu",
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Ensemble:
    """`num` networks at independent random points; network i is the same whatever `num` is.

    Weights and biases of a layer are uniform on ±1/√in, torch's own choice for `nn.Linear`. With
    `radius`, θ is uniform on the sphere |θ| = radius (Sagun, Bottou and LeCun 2016, section 3).
    Network i is drawn in float64 from its own stream (seed, i), rounded to `dtype` and moved to
    `device`: the same on every device.

    Raises:
        ValueError: if the widths, the activation, `num` or `radius` make no networks.

    >>> e = initialise((2, 6, 6, 2), 3, seed=0, radius=5.0)
    >>> e.n, e.theta.norm(dim=1)
    (74, tensor([5.0000, 5.0000, 5.0000], dtype=torch.float64))
    """
    layers = tuple(layers)
    _check_layers(layers)
    if num < 1:
        msg = f"num={num} networks; there must be at least one."
        raise ValueError(msg)
    if radius is not None and not 0 < radius < math.inf:
        msg = f"radius={radius} of the sphere of initial points; it must be positive and finite."
        raise ValueError(msg)
    n = num_parameters(layers)
    streams = (_stream(seed, i) for i in range(num))
    if radius is None:
        theta = np.stack([rng.uniform(-1, 1, n) for rng in streams]) * _bounds(layers)
    else:
        normal = np.stack([rng.standard_normal(n) for rng in streams])
        theta = normal * (radius / np.linalg.norm(normal, axis=1, keepdims=True))
    return Ensemble(layers, activation, torch.from_numpy(theta).to(device, dtype))


def num_parameters(layers: Sequence[int]) -> int:
    """Σ out (in + 1) over the layers.

    >>> num_parameters((2, 6, 6, 2))
    74
    """
    return sum(out * (width + 1) for width, out in pairwise(layers))


def weights(theta: Tensor, layers: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Views of the weights (m, out, in) and the biases (m, out, 1) of each layer."""
    W, b, start = [], [], 0
    for width, out in pairwise(layers):
        middle, end = start + out * width, start + out * (width + 1)
        W.append(torch.unflatten(theta[:, start:middle], 1, (out, width)))
        b.append(theta[:, middle:end, None])
        start = end
    return W, b


def _bounds(layers: Sequence[int]) -> np.ndarray:
    pairs = pairwise(layers)
    return np.concatenate([np.full(out * (width + 1), width**-0.5) for width, out in pairs])


def _stream(seed: int, i: int) -> np.random.Generator:
    key = np.array([seed % 2**64, _STREAM + i], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _check_layers(layers: tuple[int, ...]) -> None:
    if len(layers) < 2 or min(layers) < 1:
        msg = (
            f"layers={layers} are no widths of a network; give at least those of inputs and "
            "outputs, all positive: (2, 6, 6, 2)."
        )
        raise ValueError(msg)

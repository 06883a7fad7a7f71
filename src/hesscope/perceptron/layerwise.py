"""The Gram matrix of Gauss-Newton for multilayer perceptrons, layer by layer, without a Jacobian.

The row of J for item n and output direction R_n[:, j] is, on layer l, the outer product of the
signal d that arrives there from above and of the layer's input a. The inner product of two rows is
therefore Σ_l (d·d')(a·a' + 1): products of matrices with M = N r rows and as many columns as units
(Novak, Sohl-Dickstein and Schoenholz 2022, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesscope.derivatives.by_autograd import slope
from hesscope.perceptron.assembly import columns_in_theta
from hesscope.perceptron.mlp import MLP, Examples, examples, forward


def layerwise_gram(mlp: MLP, rank: int) -> Tensor:
    """AᵀA, (N·rank, N·rank) in float64: as `gram_matrix`, from `rank` columns per example.

    Costs one backward pass of `rank` signals per example, 2 M² (units + inputs) flops, and three
    matrices of M² numbers.
    """
    inputs: list[list[Tensor]] = [[] for _ in mlp.layers]
    signals: list[list[Tensor]] = [[] for _ in mlp.layers]
    for batch in examples(mlp):
        for k, (a, d) in enumerate(_pulled_back(mlp, batch, rank)):
            inputs[k].append(a.double())
            signals[k].append(d.double())
    gram: Tensor | None = None
    for k in range(len(mlp.layers)):
        part = _of_layer(mlp, k, torch.cat(inputs[k]), torch.cat(signals[k]))
        gram = part if gram is None else gram.add_(part)
    assert gram is not None  # a perceptron has a layer
    return gram


def _pulled_back(mlp: MLP, batch: Examples, rank: int) -> list[tuple[Tensor, Tensor]]:
    """(a, d) of each layer: inputs (N, p), and signals (N, rank, units) of the loss's root."""
    values, vectors = torch.linalg.eigh(batch.hessians)
    root = vectors[:, :, -rank:] * values[:, None, -rank:].clamp_min(0).sqrt()
    _, levels = forward(mlp, batch.inputs)
    signal, found = root.transpose(1, 2), []
    for layer, (a, z) in zip(reversed(mlp.layers), reversed(levels), strict=True):
        signal = signal * slope(layer.activation, z)[:, None, :]
        found.append((a, signal))
        signal = signal @ layer.linear.weight.detach()
    return found[::-1]


def _of_layer(mlp: MLP, k: int, a: Tensor, d: Tensor) -> Tensor:
    """(d·d')(a·a' + 1), the weight's and the bias's part as far as they belong to theta."""
    extended = torch.cat([a, a.new_ones(len(a), 1)], 1)[:, columns_in_theta(mlp, k)]
    inner = extended @ extended.T
    num, rank, _ = d.shape
    rows = d.reshape(num * rank, -1)
    gram = (rows @ rows.T).view(num, rank, num, rank)
    return gram.mul_(inner[:, None, :, None]).view(num * rank, num * rank)

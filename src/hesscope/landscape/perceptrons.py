"""The loss of a multilayer perceptron at many points at once, in matrix products of our own.

A block of points and a block of examples go through the layers together, with a row for each unit,
small enough to stay in the processor's cache. The first layer is linear in its weights: its outputs
at θ + Σ c_i d_i are Z_0 + Σ c_i Z_i, and cost no product with the data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hesscope.perceptron.mlp import MLP, inputs_and_targets, recognise
from hesscope.problem.problem import Problem

POINTS, EXAMPLES = 16, 256  # that go through the layers together
Score = Callable[[Tensor, Tensor], Tensor]  # outputs (K, C, E), targets -> (K,) sums


def losses_of(mlp: MLP, origin: Tensor, vectors: Tensor, coordinates: Tensor) -> Tensor:
    """The mean loss at origin (n,) + vectors (n, k) @ c for each c of (m, k), float64."""
    problem = mlp.problem.at(origin)
    total = torch.zeros(len(coordinates), dtype=torch.float64)
    moved = coordinates.to(vectors)
    with problem.evaluation() as e:
        layers = [_pieces(problem, mlp, i, origin, vectors) for i in range(len(mlp.layers))]
        for batch in e.batches:
            inputs, targets = inputs_and_targets(mlp, e, batch)
            with torch.no_grad():
                sums = _sums(problem, mlp, layers, inputs, targets, moved)
            total += (batch.count / e.num_items / targets.numel()) * sums.double().cpu()
    return total


def _sums(
    problem: Problem,
    mlp: MLP,
    layers: list[list[tuple[Tensor, Tensor | None]]],
    inputs: Tensor,
    targets: Tensor,
    coordinates: Tensor,
) -> Tensor:
    """(m,) the loss of one batch summed over its examples and outputs."""
    score, sums = score_of(problem, targets), torch.zeros_like(coordinates[:, 0])
    assert score is not None  # the perceptron was taken for it
    for start in range(0, len(inputs), EXAMPLES):
        some = slice(start, start + EXAMPLES)
        first = [_product(W, inputs[some], b) for W, b in layers[0]]
        num = max(1, POINTS * EXAMPLES // len(inputs[some]))  # small batches take more points
        for i in range(0, len(coordinates), num):
            outputs = _through(mlp, layers, first, coordinates[i : i + num])
            sums[i : i + num] += score(outputs, targets[some])
    return sums


def score_of(problem: Problem, targets: Tensor) -> Score | None:
    """The sum of the loss over examples, for outputs with a row for each class; None if unknown."""
    loss_fn = problem.loss_fn
    plain_ce = loss_fn is F.cross_entropy or (
        type(loss_fn) is nn.CrossEntropyLoss
        and (loss_fn.weight, loss_fn.reduction, loss_fn.label_smoothing) == (None, "mean", 0.0)
    )
    labels = targets.ndim == 1 and targets.dtype == torch.int64
    if plain_ce and labels and bool((targets >= 0).all()):
        return _cross_entropy
    plain_mse = loss_fn is F.mse_loss or (
        type(loss_fn) is nn.MSELoss and loss_fn.reduction == "mean"
    )
    if plain_mse and targets.ndim == 2 and targets.is_floating_point():
        return _squared_error
    return None


def perceptron_in(problem: Problem) -> MLP | None:
    """The problem as a perceptron whose loss is known here, or None."""
    if problem.training or not problem.batches.cached:
        return None
    mlp = recognise(problem)
    if mlp is None:
        return None
    with problem.evaluation() as e:
        for batch in e.batches:
            _, targets = inputs_and_targets(mlp, e, batch)
            if not isinstance(targets, Tensor) or score_of(problem, targets) is None:
                return None
    return mlp


def _pieces(
    problem: Problem, mlp: MLP, i: int, origin: Tensor, vectors: Tensor
) -> list[tuple[Tensor, Tensor | None]]:
    """(weights, bias) of a layer at the origin, then along each vector; zero where it is frozen."""
    layer, places = mlp.layers[i], problem.layout.slices()
    found = []
    for j, v in enumerate([origin, *vectors.T]):
        pair: list[Tensor | None] = []
        for key in ("weight", "bias"):
            own = getattr(layer.linear, key)
            name = f"{layer.name}.{key}".lstrip(".")
            if own is None:
                pair.append(None)
            elif name in places:
                pair.append(v[places[name]].view(own.shape))
            else:
                pair.append(own.detach() if j == 0 else torch.zeros_like(own))
        assert pair[0] is not None
        found.append((pair[0], pair[1]))
    return found


def _product(weight: Tensor, inputs: Tensor, bias: Tensor | None) -> Tensor:
    """(units, examples)."""
    z = weight @ inputs.T
    return z if bias is None else z + bias[:, None]


def _through(
    mlp: MLP, layers: list[list[tuple[Tensor, Tensor | None]]], first: list[Tensor], c: Tensor
) -> Tensor:
    """The outputs (K, C, E) at K points, from the first layer's (units, E) and its changes."""
    at_origin, changes = first[0], torch.stack(first[1:])
    z = torch.addmm(at_origin.reshape(1, -1), c, changes.flatten(1))
    z = z.view(len(c), *at_origin.shape)
    for layer, pieces in zip(mlp.layers, layers[1:], strict=False):
        a = layer.activation(z)
        weight = _moved([W for W, _ in pieces], c)
        biases = [b for _, b in pieces if b is not None]
        if biases:
            z = torch.baddbmm(_moved(biases, c)[:, :, None], weight, a)
        else:
            z = torch.bmm(weight, a)
    return mlp.layers[-1].activation(z)


def _moved(pieces: list[Tensor], c: Tensor) -> Tensor:
    """(K, *shape): the first piece plus c times the others."""
    moved = torch.addmm(pieces[0].reshape(1, -1), c, torch.stack(pieces[1:]).flatten(1))
    return moved.view(len(c), *pieces[0].shape)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    at = targets.expand(len(outputs), 1, -1)
    return -outputs.log_softmax(1).gather(1, at).sum((1, 2))


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets.T).square().sum((1, 2))

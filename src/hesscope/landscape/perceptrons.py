"""The loss of a multilayer perceptron at many points at once, in matrix products of our own.

A block of points and a block of examples go through the layers together, with a row for each unit,
small enough to stay in the processor's cache. The first layer is linear in its weights: its outputs
at θ + Σ c_i d_i are Z_0 + Σ c_i Z_i, and cost no product with the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hesscope.perceptron.mlp import MLP, Layer, inputs_and_targets, recognise
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.problem import Problem

EXAMPLES = 256  # that go through the layers together
KEPT = 16  # times as many, of which the outputs of the first layer are kept
ENTRIES = 1 << 17  # of the widest layer, for several points together: half a megabyte
Score = Callable[[Tensor, Tensor], Tensor]  # outputs (K, C, E), targets -> (K,) sums


def losses_of(mlp: MLP, origin: Tensor, vectors: Tensor, coordinates: Tensor) -> Tensor:
    """The mean loss at origin (n,) + vectors (n, k) @ c for each c of (m, k), float64."""
    problem = mlp.problem.at(origin)
    total = torch.zeros(len(coordinates), dtype=torch.float64)
    moved = F.pad(coordinates.to(vectors), (1, 0), value=1.0)
    with problem.evaluation() as e, torch.no_grad():
        layers = [_pieces(problem, layer, origin, vectors) for layer in mlp.layers]
        for weight, inputs, targets in _together(mlp, e):
            total += weight * _sums(problem, mlp, layers, inputs, targets, moved).double().cpu()
    return total


def _together(mlp: MLP, e: Evaluation) -> list[tuple[float, Tensor, Tensor]]:
    """(weight of an entry of the targets, inputs, targets), batches of one weight joined."""
    joined: dict[float, list[tuple[Tensor, Tensor]]] = {}
    for batch in e.batches:
        inputs, targets = inputs_and_targets(mlp, e, batch)
        weight = batch.count / e.num_items / targets.numel()
        joined.setdefault(float(f"{weight:.12e}"), []).append((inputs.detach(), targets))
    return [
        (weight, torch.cat([x for x, _ in some]), torch.cat([t for _, t in some]))
        for weight, some in joined.items()
    ]


def _sums(
    problem: Problem,
    mlp: MLP,
    layers: list[list[Pieces]],
    inputs: Tensor,
    targets: Tensor,
    coordinates: Tensor,
) -> Tensor:
    """(m,) the loss of some examples summed over them and their outputs."""
    score, sums = score_of(problem, targets), torch.zeros_like(coordinates[:, 0])
    assert score is not None  # the perceptron was taken for it
    num = max(1, ENTRIES // (max(mlp.widths) * min(EXAMPLES, len(inputs))))
    for start in range(0, len(inputs), KEPT * EXAMPLES):
        some = slice(start, start + KEPT * EXAMPLES)
        parts = list(zip(inputs[some].split(EXAMPLES), targets[some].split(EXAMPLES), strict=True))
        first = [_first(layers[0], x) for x, _ in parts]
        for i in range(0, len(coordinates), num):
            c = coordinates[i : i + num]
            weights = [[piece.at(c) for piece in pieces] for pieces in layers[1:]]
            for z, (_, t) in zip(first, parts, strict=True):
                sums[i : i + num] += score(_through(mlp, weights, z.at(c)), t)
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


@dataclass(frozen=True, eq=False)
class Pieces:
    """A tensor that is linear in the coordinates: at the origin, then along each vector."""

    rows: Tensor  # (1 + k, entries)
    shape: torch.Size

    @classmethod
    def of(cls, pieces: list[Tensor]) -> Pieces:
        """These, the first at the origin."""
        return cls(torch.stack(pieces).flatten(1), pieces[0].shape)

    def at(self, c: Tensor) -> Tensor:
        """(K, *shape) at coordinates c (K, 1 + k), which begin with 1."""
        return torch.mm(c, self.rows).view(len(c), *self.shape)


def _pieces(problem: Problem, layer: Layer, origin: Tensor, vectors: Tensor) -> list[Pieces]:
    """Weights, and bias if there is one, of a layer; what is frozen does not change."""
    places, found = problem.layout.slices(), []
    for key in ("weight", "bias"):
        own = getattr(layer.linear, key)
        name = f"{layer.name}.{key}".lstrip(".")
        if own is None:
            continue
        if name in places:
            found.append(Pieces.of([v[places[name]].view(own.shape) for v in (origin, *vectors.T)]))
        else:
            found.append(Pieces.of([own, *[torch.zeros_like(own)] * vectors.shape[1]]))
    return found


def _first(layer: list[Pieces], inputs: Tensor) -> Pieces:
    """The outputs (units, E) of the first layer."""
    weight, *biases = layer
    z = weight.rows.view(-1, *weight.shape) @ inputs.T
    for bias in biases:
        z += bias.rows[:, :, None]
    return Pieces.of(list(z))


def _through(mlp: MLP, weights: list[list[Tensor]], z: Tensor) -> Tensor:
    """The outputs (K, C, E) at K points, from those of the first layer (K, units, E)."""
    for layer, (weight, *biases) in zip(mlp.layers, weights, strict=False):
        z = torch.bmm(weight, layer.activation(z))
        for bias in biases:
            z += bias[:, :, None]
    return mlp.layers[-1].activation(z)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    at = targets.expand(len(outputs), 1, -1)
    return -outputs.log_softmax(1).gather(1, at).sum((1, 2))


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets.T).square().sum((1, 2))

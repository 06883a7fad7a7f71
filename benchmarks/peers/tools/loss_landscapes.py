"""loss-landscapes: the loss on lines and planes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from benchmarks.peers.networks import Network
from benchmarks.peers.tools import Job, Tool, Way
from benchmarks.peers.work import POINTS, Answer, plane, point


def surface(network: Network) -> Job:
    """Its matrix is said to be start + i d₁ + j d₂: the ends are chosen so that it is our grid."""
    import loss_landscapes
    from loss_landscapes.metrics import Loss

    metric = Loss(network.criterion, network.inputs, network.targets)
    directions = plane(network)
    corner = point(network) - directions.sum(1)
    steps = 2 * POINTS / (POINTS - 1) * directions

    def job(_: int) -> Answer:
        models = [moved(network, p) for p in (corner, *(corner + d for d in steps.unbind(1)))]
        losses = loss_landscapes.planar_interpolation(*models, metric, steps=POINTS)
        return Answer(losses, POINTS**2)

    return job


def moved(network: Network, place: torch.Tensor) -> Any:
    """A copy of the model at another point: it walks through the parameters of what it is given."""
    model = copy.deepcopy(network.model)
    torch.nn.utils.vector_to_parameters(place, model.parameters())
    return model


TOOL = Tool(
    "loss-landscapes",
    "loss-landscapes",
    "loss_landscapes",
    {"surface": [Way("planar_interpolation(start, end1, end2, Loss(...), steps=11)", surface)]},
)

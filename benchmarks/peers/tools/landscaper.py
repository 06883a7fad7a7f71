"""Landscaper: planes of the loss, and its own copy of PyHessian, whose graphs are built anew."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarks.peers.networks import Network
from benchmarks.peers.tools import Job, Tool, Way
from benchmarks.peers.truth import direction
from benchmarks.peers.work import POINTS, PRODUCTS, Answer, plane, point

REACH = 0.5  # of a plane, in lengths of θ


def hessian(network: Network) -> tuple[Any, list[int]]:
    """Its object, whose products are counted in the list of one number."""
    from landscaper import PyHessian

    made, count = PyHessian(network.model, network.criterion, network.data, "cpu"), [0]
    multiply = made.hv_product

    def counted(v: Any) -> Any:
        count[0] += 1
        return multiply(v)

    made.hv_product = counted
    return made, count


def product(network: Network) -> Job:
    made, _ = hessian(network)
    shapes = [p.shape for p in made.params]
    v = direction(network.n, 0).split([shape.numel() for shape in shapes])
    pieces = [a.view(shape) for a, shape in zip(v, shapes, strict=True)]
    return lambda _: Answer(made.hv_product(pieces)[1], 1)


def prepared(call: Callable[[Any], Any]) -> Callable[[Network], Job]:
    def prepare(network: Network) -> Job:
        made, count = hessian(network)

        def job(seed: int) -> Answer:
            torch.manual_seed(seed)
            count[0] = 0
            return Answer(call(made), count[0])

        return job

    return prepare


def density(made: Any) -> Any:
    """All weights: a matrix for each run, of which its plot takes the rows together."""
    nodes, weights = made.density(iter=PRODUCTS)
    return np.repeat(np.real(nodes[0]), len(nodes[0])), np.real(weights[0]).T.ravel()


def values(k: int) -> Callable[[Network], Job]:
    return prepared(lambda made: made.eigenvalues(top_n=k)[0])


def surface(network: Network) -> Job:
    """It turns and scales directions itself; the truth is taken where it goes, not where it says.

    Steps are REACH |θ| / (POINTS / 2) along each, so that the last is nearer than its axis.
    """
    from landscaper import LossLandscape

    parameters = list(network.model.parameters())
    sizes = [p.numel() for p in parameters]
    pieces = [
        [a.view(p.shape).clone() for a, p in zip(d.split(sizes), parameters, strict=True)]
        for d in plane(network).unbind(1)
    ]

    def loss(model: Any, data: Any) -> float:
        return float(network.criterion(model(data[0]), data[1]))

    def job(seed: int) -> Answer:
        np.random.seed(seed)  # noqa: NPY002  it adds noise to the largest loss
        data = network.data[0]
        options = {"steps": POINTS, "distance": REACH, "dim": 2, "device": "cpu"}
        with contextlib.redirect_stdout(io.StringIO()):
            found = LossLandscape.compute(network.model, data, pieces, loss, **options)
        return Answer(np.array(found.loss), POINTS**2, points=visited(network, pieces))

    return job


def visited(network: Network, pieces: list[list[torch.Tensor]]) -> torch.Tensor:
    """θ plus whole steps along each direction, whose tensors have a root mean square of one."""
    start, steps = point(network).double(), torch.arange(POINTS) - POINTS // 2
    offsets = []
    for direction_pieces in pieces:
        d = torch.cat([(a.numel() ** 0.5 * a / a.norm()).reshape(-1) for a in direction_pieces])
        step = d.double() / d.norm() * start.norm() * REACH / (POINTS / 2)
        offsets.append(steps[:, None] * step)
    return start + offsets[0][:, None] + offsets[1][None]


HVP = [Way("PyHessian(model, loss, data, 'cpu').hv_product(v)", product)]
TOOL = Tool(
    "Landscaper",
    "Landscaper",
    "landscaper",
    {
        "product-mlp": HVP,
        "product-resnet": HVP,
        "product-gpt2": HVP,
        "product-gpt2-elementary": HVP,
        "largest-mlp": [Way("eigenvalues(top_n=10)", values(10))],
        "largest-resnet": [Way("eigenvalues(top_n=10)", values(10))],
        "ragged": [Way("eigenvalues(top_n=3)", values(3))],
        "attention": [Way("eigenvalues(top_n=3)", values(3))],
        "density": [Way("density(iter=100)", prepared(density))],
        "trace": [Way("trace()", prepared(lambda made: float(made.trace())))],
        "surface": [
            Way("LossLandscape.compute(model, data, dirs, loss, steps=11, dim=2)", surface)
        ],
    },
)

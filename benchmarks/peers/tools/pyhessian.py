"""PyHessian: one batch, whose graph is kept; power iteration, Hutchinson, Lanczos quadrature."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarks.peers.networks import Network
from benchmarks.peers.tools import Job, Tool, Way
from benchmarks.peers.truth import direction
from benchmarks.peers.work import PRODUCTS, Answer
from torch import Tensor


class Counted:
    """Its object for a network, whose products are counted."""

    def __init__(self, network: Network) -> None:
        module: Any = importlib.import_module("pyhessian.hessian")
        self.products, multiply = 0, _plain(module)

        def counted(*args: Any) -> Any:
            self.products += 1
            return multiply(*args)

        module.hessian_vector_product = counted
        data = {"data": network.data[0]} if len(network.data) == 1 else {"dataloader": network.data}
        self.own = module.hessian(network.model, network.criterion, **data, cuda=False)
        if "dataloader" in data:
            of_loader = self.own.dataloader_hv_product
            self.own.dataloader_hv_product = lambda v: (self._count(), of_loader(v))[1]

    def _count(self) -> None:
        self.products += 1

    def answered(self, call: Callable[[Any], Any], seed: int) -> Answer:
        torch.manual_seed(seed)
        self.products = 0
        return Answer(call(self.own), self.products)


def _plain(module: Any) -> Any:
    """Its product of one batch, without the count of an earlier object."""
    if not hasattr(module, "plain_product"):
        module.plain_product = module.hessian_vector_product
    return module.plain_product


def product(network: Network) -> Job:
    made = Counted(network)
    shapes = [p.shape for p in made.own.params]
    v = direction(network.n, 0).split([shape.numel() for shape in shapes])
    pieces = [a.view(shape) for a, shape in zip(v, shapes, strict=True)]
    multiply = importlib.import_module("pyhessian.hessian").hessian_vector_product
    return lambda _: Answer(multiply(made.own.gradsH, made.own.params, pieces), 1)


def prepared(call: Callable[[Any], Any]) -> Callable[[Network], Job]:
    def prepare(network: Network) -> Job:
        made = Counted(network)
        return lambda seed: made.answered(call, seed)

    return prepare


def density(own: Any) -> tuple[Any, Any]:
    nodes, weights = own.density(iter=PRODUCTS)
    return np.real(nodes[0]), np.real(weights[0])


def with_eig(own: Any) -> tuple[Any, Any]:
    """The density after `torch.eig`, which torch has removed, was put back."""
    torch.eig = symmetric_eig
    return density(own)


def symmetric_eig(T: Tensor, eigenvectors: bool = True) -> tuple[Tensor, Tensor]:
    """What `torch.eig` gave for a symmetric matrix, more accurately."""
    assert eigenvectors
    values, vectors = torch.linalg.eigh(T)
    return torch.stack([values, torch.zeros_like(values)], 1), vectors


def values(**options: Any) -> Callable[[Network], Job]:
    return prepared(lambda own: own.eigenvalues(**options)[0])


HVP = [Way("hessian_vector_product(gradsH, params, v)", product)]
TEN = Way("eigenvalues(top_n=10)", values(top_n=10))
STRICT = Way(
    "eigenvalues(top_n=10, tol=1e-6, maxIter=1000)",
    values(top_n=10, tol=1e-6, maxIter=1000),
    at="a tolerance that reaches what is asked for",
)
THREE = [Way("eigenvalues(top_n=3)", values(top_n=3))]
TOOL = Tool(
    "PyHessian",
    "PyHessian",
    "pyhessian",
    {
        "product-mlp": HVP,
        "product-resnet": HVP,
        "product-gpt2": HVP,
        "product-gpt2-elementary": HVP,
        "largest-mlp": [TEN, STRICT],
        "largest-resnet": [TEN],
        "largest-40": [Way("eigenvalues(top_n=40)", values(top_n=40))],
        "ragged": THREE,
        "attention": THREE,
        "density": [
            Way("density(iter=100)", prepared(density)),
            Way("density(iter=100)", prepared(with_eig), at="torch.eig put back"),
        ],
        "trace": [Way("np.mean(trace())", prepared(lambda own: float(np.mean(own.trace()))))],
    },
)

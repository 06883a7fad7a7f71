"""The pieces of work, and what makes an answer to each right or wrong."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from benchmarks.peers import networks, truth
from benchmarks.peers.networks import KEPT, Network
from torch import Tensor

POINTS = 11  # of a surface, along each axis
PRODUCTS = 100  # of a density


@dataclass(frozen=True)
class Answer:
    """What a tool returned, what it cost, and how large it says that the error is."""

    value: Any
    products: int
    stated: float | None = None  # relative
    points: Tensor | None = None  # of a surface: where the tool says that it was, if not `grid`


@dataclass(frozen=True)
class Work:
    """A piece of work that several tools do.

    Args:
        title: what is asked for, and of which network.
        measure: what the error is.
        truth: network -> what is right; kept in a file where it is dear.
        error: (network, answer, truth, seed) -> the error.
        over: how errors of several seeds become one.
        seeds: so many answers, if time allows.
        asked: the error that is asked for; None where there is none to choose.
        counts: what the cost is counted in.
    """

    name: str
    title: str
    measure: str
    network: Callable[[], Network]
    truth: Callable[[Network], Any]
    error: Callable[[Network, Answer, Any, int], float]
    over: str = "worst"
    seeds: int = 1
    asked: float | None = None
    counts: str = "products"

    @property
    def is_product(self) -> bool:
        """Whether an answer is one product: so short that many are timed together."""
        return self.name.startswith("product")

    def known(self, network: Network, *, tiny: bool) -> Any:
        """The truth, read again where it has been computed before."""
        if tiny or self.truth not in KEPT_TRUTHS:
            return self.truth(network)
        file = KEPT / f"{KEPT_TRUTHS[self.truth]} of {network.name}.json"
        if not file.exists():
            values = self.truth(network).tolist()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values), "utf-8")
        return torch.tensor(json.loads(file.read_text("utf-8")), dtype=torch.float64)

    def reached(self, error: float) -> bool:
        """Whether an error is no larger than what was asked for."""
        return self.asked is None or error <= self.asked

    def combined(self, errors: Sequence[float]) -> float:
        """One number of the errors of all seeds."""
        if self.over == "rms":
            return math.sqrt(statistics.fmean(e * e for e in errors))
        return max(errors) if self.over == "worst" else statistics.median(errors)


def relative(network: Network, answer: Answer, multiply: Any, seed: int) -> float:
    """Of a product: the norm of its error over its own."""
    true = multiply(truth.direction(network.n, seed))
    return float((truth.flat(answer.value) - true).norm() / true.norm())


def worst_eigenvalue(network: Network, answer: Answer, exact: Tensor, seed: int) -> float:  # noqa: ARG001
    """The largest relative error of the i-th largest in magnitude, over all i."""
    found = truth.flat(answer.value)
    found = found[found.abs().argsort(descending=True)]
    return float((found / exact[: len(found)] - 1).abs().max())


def largest_error(network: Network, answer: Answer, exact: Tensor, seed: int) -> float:  # noqa: ARG001
    """The relative error of the one of largest magnitude."""
    return abs(float(max(truth.flat(answer.value), key=abs) / exact[0]) - 1)


def distance(network: Network, answer: Answer, exact: Tensor, seed: int) -> float:  # noqa: ARG001
    return truth.wasserstein(*answer.value, exact)


def of_sum(network: Network, answer: Answer, exact: Tensor, seed: int) -> float:  # noqa: ARG001
    return abs(float(answer.value) / float(exact.sum()) - 1)


def of_surface(network: Network, answer: Answer, exact: Any, seed: int) -> float:  # noqa: ARG001
    """The largest relative error of a loss on the grid."""
    true = exact if answer.points is None else truth.losses(network, answer.points)
    return float((torch.as_tensor(answer.value).double() / true - 1).abs().max())


def plane(network: Network) -> Tensor:
    """Two random directions (n, 2) whose pieces are as long as those of the weights."""
    generator = torch.Generator().manual_seed(1)
    columns = []
    for _ in range(2):
        pieces = []
        for p in network.model.parameters():
            d = torch.randn(p.shape, generator=generator)
            pieces.append((d * p.detach().norm() / d.norm()).reshape(-1))
        columns.append(torch.cat(pieces))
    return torch.stack(columns, 1)


def point(network: Network) -> Tensor:
    """θ, (n,)."""
    return torch.nn.utils.parameters_to_vector(network.model.parameters()).detach()


def grid(network: Network) -> Tensor:
    """θ + a d₁ + b d₂ for a and b from -1 to 1, (POINTS, POINTS, n)."""
    first, second = plane(network).double().unbind(1)
    axis = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    a, b = axis[:, None, None], axis[None, :, None]
    return point(network).double() + a * first + b * second


def surface(network: Network) -> Tensor:
    return truth.losses(network, grid(network))


def multiplied(function: Callable[[Network, Tensor], Tensor]) -> Callable[[Network], Any]:
    """network -> (v -> product)."""
    return lambda network: partial(function, network)


ten, forty = partial(truth.largest, k=10), partial(truth.largest, k=40)
three = partial(truth.largest, k=3)
KEPT_TRUTHS = {ten: "10 largest", forty: "40 largest", truth.spectrum: "spectrum"}

_PRODUCT = {"measure": "relative error of the vector", "error": relative, "asked": 1e-5}
_VALUES = {"measure": "worst relative error of one of them", "error": worst_eigenvalue}
WORKS = {
    work.name: work
    for work in (
        Work("product-mlp", "Hessian-vector product, MLP 64-256-256-10 (85,002)",
             network=networks.fresh_mlp, truth=truth.product, **_PRODUCT),
        Work("product-resnet", "Hessian-vector product, ResNet-20 (272,474)",
             network=networks.resnet, truth=truth.product, **_PRODUCT),
        Work("product-gpt2", "Hessian-vector product, GPT-2 2x128 (437,760), stock attention",
             network=networks.gpt2, truth=truth.product, **_PRODUCT),
        Work("product-gpt2-elementary", "Hessian-vector product, GPT-2, attention written out",
             network=partial(networks.gpt2, "eager"), truth=truth.product, **_PRODUCT),
        Work("product-gauss-newton", "Gauss-Newton product, MLP 64-256-256-10",
             network=networks.fresh_mlp, truth=multiplied(truth.gauss_newton), **_PRODUCT),
        Work("product-fisher", "empirical Fisher product, MLP 64-256-256-10",
             network=networks.fresh_mlp, truth=multiplied(truth.empirical_fisher), **_PRODUCT),
        Work("largest-mlp", "10 largest eigenvalues to 1e-3, MLP 64-256-256-10",
             network=networks.trained_mlp, truth=ten, seeds=3, asked=1e-3, **_VALUES),
        Work("largest-resnet", "10 largest eigenvalues to 1e-3, ResNet-20 on images of 16x16",
             network=networks.trained_resnet, truth=ten, asked=1e-3, **_VALUES),
        Work("largest-40", "40 largest eigenvalues to 1e-3, MLP 64-24-10 (1,810)",
             network=networks.demonstration, truth=forty, seeds=3, asked=1e-3, **_VALUES),
        Work("ragged", "λmax to 1e-3, MLP 64-24-10, the last batch of one example",
             network=lambda: networks.demonstration().with_last_batch_of_one(), truth=three,
             measure="relative error", error=largest_error, asked=1e-3),
        Work("attention", "λmax to 1e-3, a stock transformer layer",
             network=networks.attention, truth=three,
             measure="relative error", error=largest_error, asked=1e-3),
        Work("density", "spectral density, 100 products asked for, MLP 64-64-32-10 (6,570)",
             measure="W₁ to the exact spectrum over its range, median of 5 seeds",
             network=networks.small_mlp, truth=truth.spectrum, error=distance,
             over="median", seeds=5),
        Work("trace", "trace to 1 %, MLP 64-64-32-10",
             measure="rms relative error of 10 seeds", network=networks.small_mlp,
             truth=truth.spectrum, error=of_sum, over="rms", seeds=10, asked=1e-2),
        Work("surface", "loss on a plane of 11 x 11 points, MLP 64-64-32-10",
             measure="largest relative error of a loss", network=networks.small_mlp,
             truth=surface, error=of_surface, asked=1e-3, counts="losses"),
    )
}  # fmt: skip

"""hesscope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers.networks import Network
from benchmarks.peers.tools import Job, Tool, Way
from benchmarks.peers.truth import direction
from benchmarks.peers.work import POINTS, PRODUCTS, Answer, plane

import hesscope as hs


def problem(network: Network) -> hs.Problem:
    return hs.Problem(network.model, network.criterion, network.data)


def product(operator: Callable[[hs.Problem], Any]) -> Callable[[Network], Job]:
    def prepare(network: Network) -> Job:
        A, v = operator(problem(network)), direction(network.n, 0)
        return lambda _: Answer(A @ v, 1)

    return prepare


def largest(k: int, **options: Any) -> Callable[[Network], Job]:
    def prepare(network: Network) -> Job:
        H = hs.Hessian(problem(network))

        def job(seed: int) -> Answer:
            found = hs.eigsh(H, k=k, which="LM", seed=seed, **options)
            residuals = found.residuals / found.eigenvalues.abs()
            return Answer(found.eigenvalues, found.num_matvecs, float(residuals.max()))

        return job

    return prepare


def density(network: Network) -> Job:
    H = hs.Hessian(problem(network))

    def job(seed: int) -> Answer:
        found = hs.spectral_density(H, max_matvecs=PRODUCTS, seed=seed)
        return Answer((found.nodes, found.weights), found.num_matvecs)

    return job


def trace(network: Network) -> Job:
    H = hs.Hessian(problem(network))

    def job(seed: int) -> Answer:
        found = hs.trace(H, rtol=0.01, seed=seed)
        half = found.interval(0.95).width / 2 / abs(found.value)
        return Answer(found.value, found.num_matvecs, half)

    return job


def surface(network: Network) -> Job:
    made, directions = problem(network), plane(network)

    def job(_: int) -> Answer:
        found = hs.loss_slice(made, directions, span=1.0, num_points=POINTS, max_matvecs=0)
        return Answer(found.losses, POINTS**2)

    return job


RESIDUALS = "residuals; that none was skipped, copies included"
UNPROVEN = "residuals"
TEN = [
    Way('hs.eigsh(H, k=10, which="LM")', largest(10), RESIDUALS),
    Way('hs.eigsh(H, k=10, which="LM", verify=False)', largest(10, verify=False), UNPROVEN),
]
HVP = [Way("hs.Hessian(problem) @ v", product(hs.Hessian))]
TOOL = Tool(
    "hesscope",
    "hesscope",
    "hesscope",
    {
        "product-mlp": HVP,
        "product-resnet": HVP,
        "product-gpt2": HVP,
        "product-gpt2-elementary": HVP,
        "product-gauss-newton": [Way("hs.GaussNewton(problem) @ v", product(hs.GaussNewton))],
        "product-fisher": [Way("hs.EmpiricalFisher(problem) @ v", product(hs.EmpiricalFisher))],
        "largest-mlp": TEN,
        "largest-resnet": TEN,
        "largest-40": [Way('hs.eigsh(H, k=40, which="LM")', largest(40), RESIDUALS)],
        "ragged": [Way('hs.eigsh(H, k=3, which="LM")', largest(3), RESIDUALS)],
        "attention": [Way('hs.eigsh(H, k=3, which="LM")', largest(3), RESIDUALS)],
        "density": [Way("hs.spectral_density(H, 100)", density, "counts as intervals")],
        "trace": [Way("hs.trace(H, rtol=0.01)", trace, "an interval of 95 %")],
        "surface": [Way("hs.loss_slice(problem, plane, num_points=11)", surface)],
    },
)

"""curvlinops: operators for SciPy, forward over reverse; estimators of traces and densities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarks.peers.networks import Network
from benchmarks.peers.tools import Job, Tool, Way
from benchmarks.peers.truth import direction
from benchmarks.peers.work import PRODUCTS, Answer


def operator(network: Network, kind: str = "HessianLinearOperator") -> tuple[Any, list[int]]:
    """Its operator, whose products are counted in the list of one number."""
    import curvlinops

    count, plain = [0], getattr(curvlinops, kind)

    class Counted(plain):  # type: ignore[misc]
        def _matmat(self, X: Any) -> Any:
            count[0] += X[0].shape[-1]
            return super()._matmat(X)

    parameters = list(network.model.parameters())
    A = Counted(network.model, network.criterion, parameters, network.data)
    return A, count


def product(kind: str) -> Callable[[Network], Job]:
    def prepare(network: Network) -> Job:
        A, v = operator(network, kind)[0], direction(network.n, 0)
        return lambda _: Answer(A @ v, 1)

    return prepare


def estimated(call: Callable[[Any, int], Any]) -> Callable[[Network], Job]:
    """Estimators draw from the generators of torch, and boundaries from that of NumPy."""

    def prepare(network: Network) -> Job:
        A, count = operator(network)

        def job(seed: int) -> Answer:
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            count[0] = 0
            return Answer(call(A, seed), count[0])

        return job

    return prepare


def largest(k: int, **options: Any) -> Callable[[Network], Job]:
    def call(A: Any, seed: int) -> Any:
        from scipy.sparse.linalg import eigsh

        start = direction(A.shape[0], seed).numpy()
        return eigsh(A.to_scipy(), k=k, which="LM", v0=start, **options)[0]

    return estimated(call)


def density(A: Any, _: int) -> Any:
    import curvlinops

    return curvlinops.lanczos_approximate_spectrum(A, PRODUCTS)


def hutchpp(A: Any, _: int) -> float:
    import curvlinops

    return float(curvlinops.hutchpp_trace(A, 99))


def xtrace(num: int) -> Callable[[Any, int], float]:
    def call(A: Any, _: int) -> float:
        import curvlinops

        return float(curvlinops.xtrace(A, num))

    return call


HVP = [
    Way("HessianLinearOperator(model, loss, params, data) @ v", product("HessianLinearOperator"))
]
TEN = [
    Way("eigsh(H.to_scipy(), k=10)", largest(10)),
    Way("eigsh(H.to_scipy(), k=10, tol=1e-3)", largest(10, tol=1e-3), at="the tolerance asked for"),
]
THREE = [Way("eigsh(H.to_scipy(), k=3)", largest(3))]
TOOL = Tool(
    "curvlinops",
    "curvlinops-for-pytorch",
    "curvlinops",
    {
        "product-mlp": HVP,
        "product-resnet": HVP,
        "product-gpt2": HVP,
        "product-gpt2-elementary": HVP,
        "product-gauss-newton": [Way("GGNLinearOperator(...) @ v", product("GGNLinearOperator"))],
        "product-fisher": [Way("EFLinearOperator(...) @ v", product("EFLinearOperator"))],
        "largest-mlp": TEN,
        "largest-resnet": TEN,
        "largest-40": [Way("eigsh(H.to_scipy(), k=40)", largest(40))],
        "ragged": THREE,
        "attention": THREE,
        "density": [Way("lanczos_approximate_spectrum(H, 100)", estimated(density))],
        "trace": [
            Way("hutchpp_trace(H, 99)", estimated(hutchpp)),
            Way("xtrace(H, 100)", estimated(xtrace(100))),
            Way("xtrace(H, 48)", estimated(xtrace(48)), at="fewer products"),
        ],
    },
)

"""hessian-eigenthings: operators, Lanczos of 2k steps, Hutch++, Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers.networks import Network
from benchmarks.peers.tools import Job, Tool, Way
from benchmarks.peers.truth import direction
from benchmarks.peers.work import PRODUCTS, Answer


def hessian(network: Network) -> Any:
    import hessian_eigenthings as eigenthings

    loss = eigenthings.supervised_loss(network.criterion)
    return eigenthings.HessianOperator(network.model, network.data, loss)


def gauss_newton(network: Network) -> Any:
    import hessian_eigenthings as eigenthings

    loss = eigenthings.supervised_loss_of_output(network.criterion)
    forward = eigenthings.supervised_forward
    return eigenthings.GGNOperator(network.model, network.data, forward, loss)


def fisher(network: Network) -> Any:
    import hessian_eigenthings as eigenthings

    loss = eigenthings.supervised_per_sample_loss(network.criterion)
    return eigenthings.EmpiricalFisherOperator(network.model, network.data, loss)


def product(operator: Callable[[Network], Any]) -> Callable[[Network], Job]:
    def prepare(network: Network) -> Job:
        A, v = operator(network), direction(network.n, 0)
        return lambda _: Answer(A.matvec(v), 1)

    return prepare


def counted(call: Callable[[Any, int], Answer]) -> Callable[[Network], Job]:
    """Products are calls of the operator's `matvec`."""

    def prepare(network: Network) -> Job:
        A, count = hessian(network), [0]
        multiply = A.matvec

        def matvec(v: Any) -> Any:
            count[0] += 1
            return multiply(v)

        A.matvec = matvec

        def job(seed: int) -> Answer:
            count[0] = 0
            answer = call(A, seed)
            return Answer(answer.value, count[0], answer.stated)

        return job

    return prepare


def largest(k: int, **options: Any) -> Callable[[Network], Job]:
    def call(A: Any, seed: int) -> Answer:
        import hessian_eigenthings as eigenthings

        found = eigenthings.lanczos(A, k=k, seed=seed, **options)
        stated = float((found.residuals / found.eigenvalues.abs()).max())
        return Answer(found.eigenvalues, 0, stated)

    return counted(call)


def density(**options: Any) -> Callable[[Network], Job]:
    """The smooth density on its grid."""

    def call(A: Any, seed: int) -> Answer:
        import hessian_eigenthings as eigenthings

        found = eigenthings.spectral_density(A, seed=1000 * seed, **options)
        return Answer((found.grid, found.density), 0)

    return counted(call)


def nodes(A: Any, seed: int) -> Answer:
    """The nodes under the smooth density, of one run."""
    import hessian_eigenthings as eigenthings

    options = {"num_runs": 1, "lanczos_steps": PRODUCTS}
    found = eigenthings.spectral_density(A, seed=1000 * seed, **options)
    return Answer((found.raw_eigenvalues[0], found.raw_weights[0]), 0)


def trace(num: int) -> Callable[[Network], Job]:
    def call(A: Any, seed: int) -> Answer:
        import hessian_eigenthings as eigenthings

        found = eigenthings.trace(A, num_matvecs=num, seed=seed)
        return Answer(found.estimate, 0, found.stderr / abs(found.estimate))

    return counted(call)


RECURRENCE = "residuals of its recurrence"
HVP = [Way("HessianOperator(model, data, loss).matvec(v)", product(hessian))]
TEN = Way("lanczos(H, k=10)", largest(10), RECURRENCE)
MORE = "as many steps as reach what is asked for"
TOOL = Tool(
    "hessian-eigenthings",
    "hessian-eigenthings",
    "hessian_eigenthings",
    {
        "product-mlp": HVP,
        "product-resnet": HVP,
        "product-gpt2": HVP,
        "product-gpt2-elementary": HVP,
        "product-gauss-newton": [Way("GGNOperator(...).matvec(v)", product(gauss_newton))],
        "product-fisher": [Way("EmpiricalFisherOperator(...).matvec(v)", product(fisher))],
        "largest-mlp": [
            TEN,
            Way("lanczos(H, k=10, max_iter=28)", largest(10, max_iter=28), RECURRENCE, MORE),
        ],
        "largest-resnet": [
            TEN,
            Way("lanczos(H, k=10, max_iter=40)", largest(10, max_iter=40), RECURRENCE, MORE),
        ],
        "largest-40": [Way("lanczos(H, k=40)", largest(40), RECURRENCE)],
        "ragged": [Way("lanczos(H, k=3)", largest(3), RECURRENCE)],
        "attention": [Way("lanczos(H, k=3)", largest(3), RECURRENCE)],
        "density": [
            Way("spectral_density(H)", density()),
            Way("spectral_density(H, num_runs=1, lanczos_steps=100)",
                density(num_runs=1, lanczos_steps=PRODUCTS), at="100 products"),
            Way("the same, raw_eigenvalues", counted(nodes), at="100 products"),
        ],
        "trace": [
            Way("trace(H)", trace(100), "a standard error"),
            Way("trace(H, num_matvecs=48)", trace(48), "a standard error", "fewer products"),
        ],
    },
)  # fmt: skip

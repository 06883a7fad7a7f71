"""What is true of a network, in float64 and by plain torch: nothing of any tool is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from benchmarks.peers.networks import Network
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.func import functional_call, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel


def flat(tensors: object) -> Tensor:
    """One vector of float64 of a tensor, an array, or a list of tensors."""
    if isinstance(tensors, (list, tuple)):
        return torch.cat([torch.as_tensor(tensor).reshape(-1) for tensor in tensors]).double()
    return torch.as_tensor(tensors).reshape(-1).double()


def direction(n: int, seed: int) -> Tensor:
    """The vector (n,) that all tools multiply."""
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


@contextmanager
def elementary() -> Iterator[None]:
    """Attention of which torch knows second derivatives; tools find torch's own afterwards."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def product(network: Network) -> Callable[[Tensor], Tensor]:
    """v -> H v by double backward on a kept graph."""
    exact = network.doubled()
    parameters = list(exact.model.parameters())
    sizes = [p.numel() for p in parameters]
    with elementary():
        gradient = torch.autograd.grad(exact.loss(), parameters, create_graph=True)

    def multiply(v: Tensor) -> Tensor:
        pieces = [a.view_as(p) for a, p in zip(v.double().split(sizes), parameters, strict=True)]
        return flat(torch.autograd.grad(gradient, parameters, pieces, retain_graph=True))

    return multiply


def spectrum(network: Network) -> Tensor:
    """All eigenvalues, ascending."""
    multiply, n = product(network), network.n
    eye = torch.eye(n, dtype=torch.float64)
    H = torch.stack([multiply(column) for column in eye])
    return torch.linalg.eigvalsh((H + H.T) / 2)


def largest(network: Network, k: int) -> Tensor:
    """The k eigenvalues of largest magnitude, by SciPy to 1e-10, largest first."""
    multiply, n = product(network), network.n
    if n <= 2 * k + 1:
        values = spectrum(network)
    else:
        operator = LinearOperator(
            (n, n), lambda v: multiply(torch.from_numpy(np.ravel(v))).numpy(), dtype=np.float64
        )
        start = np.random.default_rng(0).standard_normal(n)
        values = torch.from_numpy(
            eigsh(operator, k, which="LM", tol=1e-10, v0=start, return_eigenvectors=False)
        )
    return values[values.abs().argsort(descending=True)][:k]


def gauss_newton(network: Network, v: Tensor) -> Tensor:
    """Jᵀ (∂²ℓ/∂z²) J v."""
    forward, pieces, parameters = _functional(network, v)
    outputs, pushed = jvp(forward, (parameters,), (pieces,))

    def of_outputs(z: Tensor) -> Tensor:
        return network.criterion(z, network.targets)

    bent = torch.autograd.functional.hvp(of_outputs, outputs, pushed)[1]
    return flat(list(vjp(forward, parameters)[1](bent)[0].values()))


def empirical_fisher(network: Network, v: Tensor) -> Tensor:
    """The mean of g (gᵀv) over the gradients g of single examples."""
    forward, pieces, parameters = _functional(network, v)

    def losses(parameters: dict[str, Tensor]) -> Tensor:
        return torch.nn.functional.cross_entropy(
            forward(parameters), network.targets, reduction="none"
        )

    slopes = jvp(losses, (parameters,), (pieces,))[1]
    return flat(list(vjp(losses, parameters)[1](slopes / len(slopes))[0].values()))


def _functional(
    network: Network, v: Tensor
) -> tuple[Callable[[dict[str, Tensor]], Tensor], dict[str, Tensor], dict[str, Tensor]]:
    exact = network.doubled()
    parameters = {name: p.detach() for name, p in exact.model.named_parameters()}
    parts = v.double().split([p.numel() for p in parameters.values()])
    pieces = {
        name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts, strict=True)
    }

    def forward(values: dict[str, Tensor]) -> Tensor:
        return functional_call(exact.model, values, (exact.inputs,))

    return forward, pieces, parameters


def losses(network: Network, points: Tensor) -> Tensor:
    """The loss at each point of (..., n)."""
    exact = network.doubled()
    found = []
    with torch.no_grad():
        for point in points.reshape(-1, points.shape[-1]).double():
            torch.nn.utils.vector_to_parameters(point, exact.model.parameters())
            found.append(exact.loss())
    return torch.stack(found).reshape(points.shape[:-1])


def wasserstein(nodes: Tensor, masses: Tensor, exact: Tensor) -> float:
    """∫ |F - F_exact| over the range of the exact eigenvalues: W₁, relative to that range.

    >>> wasserstein(torch.tensor([0.0, 1.0]), torch.ones(2), torch.tensor([0.0, 1.0]))
    0.0
    >>> wasserstein(torch.tensor([1.0]), torch.ones(1), torch.tensor([0.0, 1.0]))
    0.5
    """
    nodes, order = flat(nodes).sort()
    shares = (flat(masses)[order] / flat(masses).sum()).cumsum(0)
    exact = flat(exact).sort().values
    places = torch.cat([nodes, exact]).sort().values
    ours = torch.cat([torch.zeros(1, dtype=torch.float64), shares])[
        torch.searchsorted(nodes, places, right=True)
    ]
    true = torch.searchsorted(exact, places, right=True).double() / len(exact)
    area = ((ours - true).abs()[:-1] * places.diff()).sum()
    return float(area / (exact[-1] - exact[0]))

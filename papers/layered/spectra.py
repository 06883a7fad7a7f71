"""Spectra of blocks beside that of the whole, on one logarithmic scale, and their distance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import hesscope as hs
from layered.networks import Kind, layers, matrices

SMALLEST, LARGEST, EACH = -5, 1, 2  # decades of the scale, and bins in each
TOP = 10  # eigenvectors whose mass is looked at


def measured(kind: Kind, problem: hs.Problem) -> dict[str, Tensor]:
    """Eigenvalues of the whole, of each layer and each weight; norms between layers; the top.

    The Hessian is assembled once, and blocks are parts of it.
    """
    dense = hs.Hessian(problem).to_dense()
    H = hs.as_operator((dense + dense.T) / 2)
    rows = layers(kind, problem)
    found = {"whole": hs.spectrum(H).eigenvalues, "loss": torch.tensor(problem.loss())}
    for group, places in (("layer", rows), ("weight", matrices(problem))):
        for name, where in places.items():
            found[f"{group}/{name}"] = hs.spectrum(H.submatrix(where)).eigenvalues
    norms = [[dense[a][:, b].norm() for b in rows.values()] for a in rows.values()]
    found["norms"] = torch.tensor(norms, dtype=torch.float64)
    top = hs.eigsh(H, TOP, seed=0).eigenvectors.square()
    found["mass"] = torch.stack([top[where].sum(0).mean() for where in rows.values()])
    return found


def estimated(kind: Kind, problem: hs.Problem, max_matvecs: int) -> Tensor:
    """The share of ‖H‖²_F outside of the layers' blocks, from products, and its standard error.

    1 - Σ ‖H_ll‖²/‖H‖², each norm with `max_matvecs` products and an error of its own.
    """
    H = hs.Hessian(problem)
    whole = hs.frobenius_norm(H, max_matvecs=max_matvecs, seed=0)
    blocks = [
        hs.frobenius_norm(H.submatrix(where), max_matvecs=max_matvecs, seed=1 + i)
        for i, where in enumerate(layers(kind, problem).values())
    ]
    squares = sum(b.value**2 for b in blocks)
    variance = sum((2 * b.value * b.stderr) ** 2 for b in blocks)
    variance += (2 * squares * whole.stderr / whole.value) ** 2
    share = 1 - squares / whole.value**2
    return torch.tensor([share, variance**0.5 / whole.value**2], dtype=torch.float64)


def of(found: dict[str, Tensor], group: str) -> dict[str, Tensor]:
    """Eigenvalues by name of a layer or of a weight."""
    return {n.split("/")[1]: e for n, e in found.items() if n.startswith(f"{group}/")}


def histogram(eigenvalues: Tensor, scale: float) -> Tensor:
    """The share of eigenvalues in each half decade of ±λ/scale; the middle bin is below 1e-5.

    >>> histogram(torch.tensor([1.0, 0.0, -0.02, 0.5]), 1.0).count_nonzero()
    tensor(4)
    """
    decades = (eigenvalues.abs() / scale).clamp_min(1e-300).log10()
    place = ((decades - SMALLEST) * EACH).floor().clamp(-1, (LARGEST - SMALLEST) * EACH - 1) + 1
    middle = (LARGEST - SMALLEST) * EACH
    bins = (eigenvalues.sign() * place + middle).long()
    return torch.bincount(bins, minlength=2 * middle + 1).double() / len(eigenvalues)


def distance(p: Tensor, q: Tensor) -> float:
    """Jensen and Shannon's distance of two histograms, 0 for equal ones, 1 for disjoint ones.

    >>> distance(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    1.0
    """
    m = (p + q) / 2
    parts = [torch.special.xlogy(a, a) - torch.special.xlogy(a, m) for a in (p, q)]
    return math.sqrt(max(float(sum(part.sum() for part in parts)) / (2 * math.log(2)), 0.0))


def shape(eigenvalues: Tensor) -> Tensor:
    """The histogram in units of its own largest |λ|."""
    return histogram(eigenvalues, float(eigenvalues.abs().max()))


def semicircle(num: int) -> Tensor:
    """Quantiles of Wigner's law on [-1, 1]: the eigenvalues of a large random matrix."""
    grid = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    mass = (1 - grid.square()).clamp_min(0).sqrt().cumsum(0)
    wanted = (torch.arange(num, dtype=torch.float64) + 0.5) / num * mass[-1]
    return grid[torch.searchsorted(mass, wanted)]


def unlikeness(found: dict[str, Tensor]) -> dict[str, float]:
    """By layer, the distance of its shape to the whole's, over that of a semicircle."""
    whole = shape(found["whole"])
    return {
        name: distance(shape(e), whole) / distance(shape(semicircle(len(e))), whole)
        for name, e in of(found, "layer").items()
    }


def heterogeneity(blocks: list[Tensor], scale: float) -> float:
    """The mean distance between the spectra of all pairs of blocks, on one scale (Zhang 2024)."""
    each = [histogram(e, scale) for e in blocks]
    pairs = [(i, j) for i in range(len(each)) for j in range(i)]
    return sum(distance(each[i], each[j]) for i, j in pairs) / len(pairs)

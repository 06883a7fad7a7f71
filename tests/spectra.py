"""Operators whose eigenvalues are known: three families, diagonal or rotated by a reflection.

`nn` looks like the Hessian of a trained network, `mult` adds an exactly tenfold eigenvalue and a
tight cluster, `sing` is mostly exact zeros between power-law tails of both signs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hesscope.operator import SymmetricOperator

FAMILIES = ("nn", "mult", "sing")


def family(kind: str, n: int, seed: int = 1) -> Tensor:
    """The n eigenvalues of a family, descending, in float64; n >= 80."""
    bulk = np.random.default_rng(seed).standard_t(2, n) * 3e-4
    outliers = np.concatenate([np.logspace(1, -2, 50), -np.logspace(np.log10(0.3), -2, 5)])
    if kind == "nn":
        values = np.concatenate([outliers, bulk[: n - 55]])
    elif kind == "mult":
        extra = np.concatenate([np.full(10, 10.0), 2 + np.linspace(0, 1e-3, 9)])
        values = np.concatenate([extra, outliers[1:], bulk[: n - 73]])
    elif kind == "sing":
        zeros = int(0.7 * n)
        positive = (n - zeros) * 2 // 3
        tail = np.arange(1, n) ** -1.2
        negative = -0.5 * tail[: n - zeros - positive]
        values = np.concatenate([20 * tail[:positive], negative, np.zeros(zeros)])
    else:
        msg = f"no family {kind!r}; choose one of {FAMILIES}."
        raise ValueError(msg)
    return torch.from_numpy(np.sort(values)[::-1].copy())


class Known(SymmetricOperator):
    """diag(eigenvalues), or R diag(eigenvalues) R with a reflection R; counts its columns."""

    def __init__(
        self, eigenvalues: Tensor, *, dtype: torch.dtype = torch.float64, rotate: int | None = None
    ) -> None:
        super().__init__(len(eigenvalues), dtype=dtype)
        self.eigenvalues = eigenvalues.double()
        self.columns = 0
        self._diagonal = eigenvalues.to(dtype)
        self._normal = None
        if rotate is not None:
            generator = torch.Generator().manual_seed(rotate)
            u = torch.randn(self.n, generator=generator, dtype=torch.float64)
            self._normal = (u / u.norm()).to(dtype)

    def matmat(self, V: Tensor) -> Tensor:
        self.columns += V.shape[1]
        return self.rotated(self._diagonal[:, None] * self.rotated(V))

    def rotated(self, V: Tensor) -> Tensor:
        """R V, or V without a rotation."""
        if self._normal is None:
            return V
        return V - 2 * torch.outer(self._normal, self._normal @ V)

    def eigenvector(self, i: int) -> Tensor:
        """The unit eigenvector of eigenvalues[i]."""
        unit = torch.zeros(self.n, dtype=self.dtype)
        unit[i] = 1.0
        return self.rotated(unit[:, None])[:, 0]


def random_eigenvalues(n: int, seed: int) -> Tensor:
    """A shape chosen by the seed: gaussian, decaying, clustered, low rank, copies, heavy tail."""
    rng = np.random.default_rng(seed)
    shapes = (
        lambda: rng.standard_normal(n),
        lambda: rng.choice([-1.0, 1.0], n) * 10.0 ** rng.uniform(-6, 1, n),
        lambda: rng.integers(-2, 3, n) + 1e-5 * rng.standard_normal(n),
        lambda: np.where(np.arange(n) < 3, rng.standard_normal(n) * 5, 0.0),
        lambda: rng.integers(-3, 4, n).astype(float),
        lambda: np.abs(rng.standard_t(2, n)),
    )
    return torch.from_numpy(np.sort(shapes[seed % len(shapes)]())[::-1].copy())

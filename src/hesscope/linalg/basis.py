"""Orthonormal vectors that grow one at a time, stored as rows in blocks that are never copied."""

from __future__ import annotations

import torch
from torch import Tensor

from hesscope.operator import SymmetricOperator

ROWS = 32  # vectors per block


class Basis:
    """Orthonormal vectors of an operator's space; dot products are the operator's own."""

    def __init__(self, A: SymmetricOperator) -> None:
        self.A = A
        self.blocks: list[Tensor] = []
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def append(self, v: Tensor) -> None:
        """Adds a unit vector (n,) that is orthogonal to the others."""
        row = self.size % ROWS
        if row == 0:
            self.blocks.append(torch.empty(ROWS, self.A.n, dtype=v.dtype, device=v.device))
        self.blocks[-1][row] = v
        self.size += 1

    def __getitem__(self, i: int) -> Tensor:
        return self.blocks[i // ROWS][i % ROWS]

    def coefficients(self, w: Tensor) -> Tensor:
        """Qᵀw, (size,) in float64."""
        parts = [self.A.inner(block.T, w[:, None])[:, 0] for block in self._filled()]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=w.device)

    def project_out(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """w minus its part in the span, and the coefficients of that part.

        Done twice, because once is not enough in floating point (Kahan, in Parlett 1980).
        """
        total = torch.zeros(self.size, dtype=torch.float64, device=w.device)
        for _ in range(2):
            c = self.coefficients(w)
            w = w - self.combine(c[:, None])[:, 0]
            total += c
        return w, total

    def combine(self, S: Tensor) -> Tensor:
        """The combinations Q S, (n, k), of the first len(S) vectors."""
        S = S.to(self.A.device)
        out = torch.zeros(self.A.n, S.shape[1], dtype=self.A.dtype, device=self.A.device)
        for i, block in enumerate(self._filled()):
            part = S[i * ROWS : (i + 1) * ROWS].to(block.dtype)
            out.addmm_(block[: len(part)].T, part)
        return out

    def _filled(self) -> list[Tensor]:
        last = self.size - ROWS * (len(self.blocks) - 1)
        return [*self.blocks[:-1], self.blocks[-1][:last]] if self.blocks else []


def norm(A: SymmetricOperator, v: Tensor) -> float:
    """‖v‖ by the operator's inner product: torch's own is off by 1e-5 at a million entries."""
    return float(A.inner(v[:, None], v[:, None]).sqrt())

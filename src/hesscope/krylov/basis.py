"""Orthonormal vectors that grow one at a time, stored as rows in blocks that are never copied."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.operator import SymmetricOperator, norm
from hesscope.operator.parts import ALIGNED, add_combined, dots

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
            width = -(-len(v) // ALIGNED) * ALIGNED
            rows = torch.empty(ROWS, width, dtype=v.dtype, device=v.device)
            self.blocks.append(rows[:, : len(v)])
        self.blocks[-1][row] = v
        self.size += 1

    def extend(self, X: Tensor) -> None:
        """Locks the columns of X (n, k), each less its part in the span of those before."""
        for v in X.to(self.A.device, self.A.dtype).unbind(1):
            v = self.complement(v)
            self.append(v / norm(self.A, v))

    def copy(self) -> Basis:
        """The same vectors, to be extended on their own."""
        other = Basis(self.A)
        for v in self:
            other.append(v)
        return other

    def __getitem__(self, i: int) -> Tensor:
        return self.blocks[i // ROWS][i % ROWS]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(self.size))

    def complement(self, w: Tensor) -> Tensor:
        """w minus its part in the span."""
        return self.project_out(w)[0]

    def project_out(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """w minus its part in the span, and the coefficients of that part, (size,) in float64.

        Done twice, because once is not enough in floating point (Kahan, in Parlett 1980). The
        vectors are read from memory at most three times: what is left after the first subtraction
        meets them again while they are in the cache, and a second subtraction that would change
        nothing is left out (Daniel, Gragg, Kaufman and Stewart 1976).
        """
        if self.size == 0:
            return w, torch.zeros(0, dtype=torch.float64, device=w.device)
        _, first = self._sweep(w, None)
        w, second = self._sweep(w, first)
        unseen = rounding.settled(w.dtype, norm(self.A, w))
        if float(second.abs().max()) > unseen:
            w = w - self.combine(second[:, None])[:, 0]
        return w, first + second

    def _sweep(self, w: Tensor, subtracted: Tensor | None) -> tuple[Tensor, Tensor]:
        """w - Q c for the coefficients c to be subtracted, and Qᵀ times what is left of w."""
        if not self.A.plain_inner:
            left = w if subtracted is None else w - self.combine(subtracted[:, None])[:, 0]
            return left, self.inner(left)
        blocks, parts = self._filled(), self.A._parts
        found = torch.zeros(len(parts), self.size, dtype=torch.float64, device=w.device)
        left = w if subtracted is None else torch.empty_like(w)
        minus = [] if subtracted is None else [-c.to(w.dtype) for c in subtracted.split(ROWS)]
        for chunk in parts.chunks:
            piece = w[chunk.entries]
            rows = [block[:, chunk.entries] for block in blocks]
            for part, c in zip(rows, minus, strict=bool(minus)):
                piece = torch.addmv(piece, part.T, c)
            if minus:
                left[chunk.entries] = piece
            into = found[chunk.first : chunk.first + len(chunk.lengths)]
            into += torch.cat([dots(part, piece, chunk, parts.short) for part in rows], 1)
        return left, self.A.collected(found)

    def inner(self, w: Tensor) -> Tensor:
        """Qᵀw, (size,) in float64, by the operator's inner product."""
        return torch.cat([self.A.inner(block.T, w[:, None])[:, 0] for block in self._filled()])

    def combine(self, S: Tensor) -> Tensor:
        """The combinations Q S, (n, k), of the first len(S) vectors."""
        S = S.to(self.A.device)
        out = torch.zeros(self.A.num_local, S.shape[1], dtype=self.A.dtype, device=self.A.device)
        for i, block in enumerate(self._filled()):
            part = S[i * ROWS : (i + 1) * ROWS].to(block.dtype)
            add_combined(out, block[: len(part)], part, self.A._parts)
        return out

    def _filled(self) -> list[Tensor]:
        last = self.size - ROWS * (len(self.blocks) - 1)
        return [*self.blocks[:-1], self.blocks[-1][:last]] if self.blocks else []

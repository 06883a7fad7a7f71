"""Vectors that grow one at a time, stored as rows in blocks that are never copied, wherever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from hesscope.operator import SymmetricOperator
from hesscope.operator.parts import add_combined

ROWS, LEAST = 32, 4  # vectors per block, at most and at least
BLOCK = 1 << 21  # numbers per block, where it holds more than the least of them
FEW = 4  # vectors that are brought at a time from elsewhere to where products are
PIECE = 1 << 18  # entries likewise, of all vectors of a block


class Rows:
    """Vectors of an operator's space, in the place that it has for them."""

    def __init__(self, A: SymmetricOperator) -> None:
        self.A = A
        self.blocks: list[Tensor] = []
        self.size = 0
        self.rows = per_block(A.n)

    def __len__(self) -> int:
        return self.size

    def append(self, v: Tensor) -> None:
        """Adds a vector (n,)."""
        row = self.size % self.rows
        if row == 0:
            self.blocks.append(self.A.block(self.rows))
        self.blocks[-1][row] = v
        self.size += 1

    def copy(self) -> Self:
        """The same vectors, to be extended on their own."""
        other = type(self)(self.A)
        for v in self:
            other.append(v)
        return other

    def __getitem__(self, i: int) -> Tensor:
        return self.brought(self.blocks[i // self.rows][i % self.rows])

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(self.size))

    @property
    def elsewhere(self) -> bool:
        """Whether the vectors are not where products are made."""
        return bool(self.blocks) and self.blocks[0].device != self.A.device

    def brought(self, part: Tensor) -> Tensor:
        """A part of the vectors, where products are made."""
        return part.to(self.A.device, non_blocking=True)

    def inner(self, W: Tensor) -> Tensor:
        """Qᵀw, (size,) in float64, by the operator's inner product; (size, k) for W of (n, k)."""
        block = W[:, None] if W.ndim == 1 else W
        found = torch.cat([self.A.inner(rows.T, block) for rows in self._groups()])
        return found[:, 0] if W.ndim == 1 else found

    def products(self, other: Rows) -> Tensor:
        """QᵀP, (size, size) in float64, with the vectors P of the other."""
        return torch.cat([self.inner(rows.T) for rows in other._groups()], 1)

    def combine(self, S: Tensor) -> Tensor:
        """The combinations Q S, (n, k), of the first len(S) vectors."""
        S = S.to(self.A.device)
        out = torch.zeros(self.A.num_local, S.shape[1], dtype=self.A.dtype, device=self.A.device)
        for i, block in enumerate(self.filled()):
            part = S[i * self.rows : (i + 1) * self.rows].to(block.dtype)
            if not self.elsewhere:
                add_combined(out, block[: len(part)], part, self.A._parts)
                continue
            for start in range(0, len(out), PIECE):
                here = slice(start, start + PIECE)
                out[here].addmm_(self.brought(block[: len(part), here]).T, part)
        return out

    def filled(self) -> list[Tensor]:
        """The blocks, without the rows that are still free."""
        last = self.size - self.rows * (len(self.blocks) - 1)
        return [*self.blocks[:-1], self.blocks[-1][:last]] if self.blocks else []

    def _groups(self) -> Iterator[Tensor]:
        """All vectors, some at a time, where products are made."""
        for block in self.filled():
            for rows in block.split(FEW if self.elsewhere else self.rows):
                yield self.brought(rows)


def per_block(n: int) -> int:
    """How many vectors of n numbers a block holds: few of long ones, whose room would lie idle.

    However many processes hold pieces of them: sums over blocks are the same in all.

    >>> per_block(1_000), per_block(1_000_000), per_block(10**9)
    (32, 4, 4)
    """
    return min(ROWS, max(LEAST, BLOCK // max(1, n)))

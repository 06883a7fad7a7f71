"""Sums over the entries of long vectors, in parts that depend on the length of the vectors alone.

Processes that hold pieces of a vector would round a sum in as many ways as there are numbers of
processes, and a run that goes on in more or fewer of them would ask for other vectors than it has
products of. So a vector is cut into parts, a piece is some whole parts, and the sums over parts are
added in one order, however many processes have made them. Within a part the arithmetic is the same
wherever it lies in memory: it begins at a multiple of 64 bytes, or terms are formed one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FEWEST, MOST, LENGTH = 12, 240, 8_192  # parts: 12 are shared out evenly by 2, 3, 4 or 6 processes
SHORT = 4_096  # entries of vectors of which sums are formed term by term, and parts lie anywhere
ALIGNED = 16  # entries to which other parts, and rows that are kept, are aligned
CHUNK = 32_768  # entries at a time: they stay in the cache, and longer sums lose more digits


class Chunk(NamedTuple):
    """Some entries that are read together: a few parts, or a piece of a long one."""

    first: int  # of the parts that they belong to
    entries: slice
    lengths: tuple[int, ...]  # of these parts, or of the piece
    starts: np.ndarray  # where they begin in the chunk


@dataclass(frozen=True)
class Parts:
    """The parts that lie here, one after another."""

    lengths: tuple[int, ...]
    short: bool = False
    at_once: int = CHUNK

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def chunks(self) -> list[Chunk]:
        """All entries that lie here, some at a time."""
        found: list[Chunk] = []
        start = first = 0
        while first < len(self):
            length, last = self.lengths[first], first + 1
            while last < len(self) and length + self.lengths[last] <= self.at_once:
                length, last = length + self.lengths[last], last + 1
            for begin in range(start, start + length, self.at_once):
                end = min(begin + self.at_once, start + length)
                own = self.lengths[first:last] if last > first + 1 else (end - begin,)
                starts = np.array([0, *accumulate(own[:-1])], dtype=np.intp)
                found.append(Chunk(first, slice(begin, end), own, starts))
            start, first = start + length, last
        return found

    def share(self, rank: int, processes: int) -> Parts:
        """Those of one of several processes; on a GPU its piece is one part."""
        if len(self) == 1 and not self.short:
            width = -(-self.lengths[0] // processes)
            first = min(rank * width, self.lengths[0])
            own = min(width, self.lengths[0] - first)
            return Parts((own,), at_once=max(1, own))
        first, last = (-(-r * len(self) // processes) for r in (rank, rank + 1))
        return Parts(self.lengths[first:last], self.short)


@cache
def parts_of(n: int, on_cpu: bool = True) -> Parts:
    """Those of vectors of n entries: as long as each other, but for the last few entries.

    On a GPU there is one: it decides on its own how it adds, and each part would be a launch.

    >>> parts_of(93).lengths, len(parts_of(10**6)), max(parts_of(10**6).lengths)
    ((8, 8, 8, 7, 8, 8, 8, 7, 8, 8, 8, 7), 123, 8144)
    """
    if not on_cpu:
        return Parts((n,), at_once=max(1, n))
    short = n <= SHORT
    unit, num = 1 if short else ALIGNED, min(max(FEWEST, -(-n // LENGTH)), MOST)
    borders = sorted({min(n, -(-i * n // (num * unit)) * unit) for i in range(num + 1)})
    lengths = tuple(b - a for a, b in pairwise(borders))
    return Parts(lengths, short)


def dots(rows: Tensor, w: Tensor, chunk: Chunk, short: bool) -> Tensor:
    """rows @ w over each part of a chunk, (parts, rows) in float64."""
    if short:
        return _summed(rows * w, chunk)
    if len(chunk.lengths) == 1:
        return _mv(rows, w)[None]
    pieces = zip(rows.split(chunk.lengths, 1), w.split(chunk.lengths), strict=True)
    return torch.stack([_mv(a, b) for a, b in pieces])


def inners(V: Tensor, W: Tensor, parts: Parts) -> Tensor:
    """VᵀW over each part, (parts, k, l) in float64, from float64 copies of a chunk at a time."""
    if len(parts.chunks) == 1:
        return _inners(V, W, parts.chunks[0], parts.short)
    found = torch.zeros(len(parts), V.shape[1], W.shape[1], dtype=torch.float64)
    for chunk in parts.chunks:
        into = found[chunk.first : chunk.first + len(chunk.lengths)]
        into += _inners(V[chunk.entries], W[chunk.entries], chunk, parts.short)
    return found


def add_combined(out: Tensor, rows: Tensor, S: Tensor, parts: Parts) -> None:
    """Adds rowsᵀ S to `out`, for rows (k, n) and S (k, l)."""
    if not parts.short or len(parts) == 0:
        out.addmm_(rows.T, S)
        return
    cut = parts.lengths
    for piece, own in zip(out.split(cut), rows.split(cut, 1), strict=True):
        piece.copy_(torch.addmm(piece, own.T, S))  # into memory of its own, which is aligned


def columns(X: Tensor, S: Tensor, parts: Parts) -> Tensor:
    """X S for X (n, k) and S (k, l), each entry as if it were the only one."""
    if S.shape[1] == 1:  # a product with one vector adds in an order that depends on the place
        return columns(X, S.expand(-1, 2).contiguous(), parts)[:, :1]
    if not parts.short or len(parts) == 0:
        return X @ S
    return torch.cat([x @ S for x in X.split(parts.lengths)])


def _inners(V: Tensor, W: Tensor, chunk: Chunk, short: bool) -> Tensor:
    """VᵀW over each part of a chunk."""
    shape = len(chunk.lengths), V.shape[1], W.shape[1]
    if shape[1] == shape[2] == 1 or (short and 1 in shape[1:]):
        return _summed((V.double() * W.double()).T, chunk).view(shape)
    pieces = zip(V.split(chunk.lengths), W.split(chunk.lengths), strict=True)
    return torch.stack([a.double().T @ b.double() for a, b in pieces])


def _summed(terms: Tensor, chunk: Chunk) -> Tensor:
    """Sums of terms (rows, entries) over each part, (parts, rows); pairwise, as NumPy adds."""
    with np.errstate(over="ignore", invalid="ignore"):  # as torch adds: what is infinite is seen
        return torch.from_numpy(np.add.reduceat(terms.double().numpy(), chunk.starts, axis=1)).T


def _mv(rows: Tensor, w: Tensor) -> Tensor:
    """rows @ w in float64, from dot products of at most CHUNK entries: those of millions lose more.

    All pieces in one batched product.
    """
    if len(w) <= CHUNK or w.dtype == torch.float64:
        return (rows @ w).double()
    whole = len(w) - len(w) % CHUNK
    pieces = rows[:, :whole].unflatten(1, (-1, CHUNK)).transpose(0, 1)  # (pieces, rows, CHUNK)
    found = torch.bmm(pieces, w[:whole].view(-1, CHUNK, 1))[:, :, 0].double().sum(0)
    return found + rows[:, whole:] @ w[whole:]

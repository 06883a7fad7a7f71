"""Orthonormal vectors that grow one at a time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.krylov.rows import PIECE, Rows
from hesscope.operator import norm
from hesscope.operator.parts import Chunk, dots


class Basis(Rows):
    """Orthonormal vectors of an operator's space; dot products are the operator's own."""

    def extend(self, X: Tensor) -> None:
        """Locks the columns of X (n, k), each less its part in the span of those before."""
        for v in X.to(self.A.device, self.A.dtype).unbind(1):
            v = self.complement(v)
            self.append(v / norm(self.A, v))

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
        blocks, parts = self.filled(), self.A._parts
        found = torch.zeros(len(parts), self.size, dtype=torch.float64, device=w.device)
        left = w if subtracted is None else torch.empty_like(w)
        minus = [] if subtracted is None else [-c.to(w.dtype) for c in subtracted.split(self.rows)]
        for chunk in self._chunks():
            piece = w[chunk.entries]
            rows = [self.brought(block[:, chunk.entries]) for block in blocks]
            for part, c in zip(rows, minus, strict=bool(minus)):
                piece = torch.addmv(piece, part.T, c)
            if minus:
                left[chunk.entries] = piece
            into = found[chunk.first : chunk.first + len(chunk.lengths)]
            into += torch.cat([dots(part, piece, chunk, parts.short) for part in rows], 1)
        return left, self.A.collected(found)

    def _chunks(self) -> list[Chunk]:
        """All entries, some at a time: as many as the cache holds, or are to be brought at once."""
        parts = self.A._parts
        return (replace(parts, at_once=PIECE) if self.elsewhere else parts).chunks

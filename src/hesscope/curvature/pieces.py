"""An operator that processes share, on vectors of which each process holds its own piece.

A Krylov space is many vectors, and every process would hold all of them, as many times as there are
processes. In pieces, process r holds some n/W entries of each, whole parts (`operator/parts.py`):
sums over entries are sums over processes, and what is linear needs nothing. A product brings the
whole vector together, multiplies it as before, and keeps its own piece of the result; where the
weights are cut over the processes, too, A may do without whole vectors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hesscope import probes
from hesscope.autodiff.shares import shares_of, spread_of
from hesscope.operator import StandIn, SymmetricOperator, finite_product
from hesscope.operator.inner import inners_of_parts
from hesscope.operator.parts import Parts
from hesscope.operator.products import NOT_FINITE
from hesscope.system import collectives


class InPieces(StandIn):
    """A, whose vectors have `num_local` entries here, and n in all processes together.

    The same numbers for any number of processes, on a CPU to the last bit: probes are cut from what
    one process would draw, and sums over parts are added in one order.
    """

    def __init__(self, A: SymmetricOperator) -> None:
        super().__init__(A)
        self._shares = shares_of(A.n, A.device)
        self._spread = spread_of(A.n, A.device)
        self._own = self._spread.own

    @property
    def num_local(self) -> int:
        """Entries of a vector that this process holds."""
        return self._own.stop - self._own.start

    @property
    def plain_inner(self) -> bool:
        """That of A: of pieces, the sum over parts is missing, which `collected` takes."""
        return self.A.plain_inner

    @property
    def _parts(self) -> Parts:
        """Those of this process."""
        return self._shares[collectives.rank()]

    def collected(self, found: Tensor) -> Tensor:
        """The sum over the parts of all processes."""
        return collectives.joined(found, list(map(len, self._shares))).sum(0)

    def own_part(self, X: Tensor) -> Tensor:
        """The piece of this process of whole vectors (n,) or (n, k)."""
        return X[self._own]

    def whole(self, X: Tensor) -> Tensor:
        """The vectors of which each process holds a piece, (n,) or (n, k), on all of them."""
        return self._spread.whole(X)

    def matmat(self, V: Tensor) -> Tensor:
        """The piece of A V, from pieces of V.

        Raises:
            RuntimeError: if any entry of A V is not finite, whoever holds it.
        """
        found = self.A._piece_of_product(V) if self.A._by_pieces else None
        if found is None:
            return finite_product(self.A, self.whole(V))[self._own]
        if collectives.smallest(float(torch.isfinite(found).all())) == 0:
            raise RuntimeError(NOT_FINITE)
        return found

    def inner(self, V: Tensor, W: Tensor) -> Tensor:
        """VᵀW over all pieces; by A's own inner product where it has one of its own."""
        if self.A.plain_inner:
            return self.collected(inners_of_parts(V, W, self._parts))
        return self.A.inner(self.whole(V), self.whole(W))

    def probe(self, seed: int) -> Tensor:
        """The piece of A's probe."""
        if type(self.A).probe is SymmetricOperator.probe:
            part = self._own.start, self._own.stop
            return probes.gaussian(self.n, seed, part=part, dtype=self.dtype, device=self.device)
        return self.A.probe(seed)[self._own].clone()

    def measured_noise(self, v: Tensor) -> float:
        """That of A; nothing is known where A does without whole vectors."""
        return 0.0 if self.A._by_pieces else self.A.measured_noise(self.whole(v))

    def facts(self) -> dict[str, Any]:
        """The facts of A, and over how many processes vectors are spread."""
        return {**self.A.facts(), "processes": collectives.num_processes()}

"""The part of an operator that belongs to some coordinates: rows of a fused weight, one head."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesscope.operator.derived import StandIn
from hesscope.operator.parts import Parts, parts_of
from hesscope.operator.symmetric import SymmetricOperator
from hesscope.system.contents import as_bytes


class Submatrix(StandIn):
    """The rows and columns `where` of A; a product costs one of A.

    By Cauchy's interlacing theorem its eigenvalues lie between the ends of A's.
    """

    probe = SymmetricOperator.probe  # of its own size, not of A's

    def __init__(self, A: SymmetricOperator, where: Tensor) -> None:
        super().__init__(A)
        self.n, self.where = len(where), where

    @property
    def num_local(self) -> int:
        """All entries, as of any operator that is not in pieces."""
        return self.n

    @property
    def _parts(self) -> Parts:
        """Of its own size, not of A's."""
        return parts_of(self.n, self.device.type == "cpu")

    def measured_noise(self, v: Tensor) -> float:
        """That of A along the same vector, of which this is a part."""
        return self.A.measured_noise(self._spread(v.reshape(self.n, -1)))

    def matmat(self, V: Tensor) -> Tensor:
        """Entries `where` of A W, with W zero elsewhere and V there."""
        return (self.A @ self._spread(V))[self.where]

    def _spread(self, V: Tensor) -> Tensor:
        W = torch.zeros(self.A.n, V.shape[1], dtype=V.dtype, device=V.device)
        W[self.where] = V
        return W

    def in_pieces(self, made_of_it: SymmetricOperator | None = None) -> SymmetricOperator:
        """As A has it."""
        return self.A.in_pieces(made_of_it or self)

    def drawn_seed(self, given: int | None) -> int:
        """As A has it."""
        return self.A.drawn_seed(given)

    def made_of(self) -> dict[str, str]:
        """What A is made of, and which coordinates these are."""
        coordinates = hashlib.sha256(as_bytes(self.where.cpu()).numpy().data).hexdigest()
        own = {"operator": self._expression(), "n": str(self.n), "coordinates": coordinates}
        return super().made_of() | own

    def facts(self) -> dict[str, Any]:
        """The facts of A under the name and the size of the part."""
        return {**self.A.facts(), "operator": self._expression(), "n": self.n}

    def _expression(self) -> str:
        return f"{self.n} coordinates of {self.A._expression()}"


def as_coordinates(where: Any, n: int, device: torch.device) -> Tensor:
    """Which of n coordinates are meant, (m,), in the order in which they are given.

    Raises:
        ValueError: if they are no indices of n coordinates or no mask of them, if one is there
            twice, or if there are none.
    """
    if isinstance(where, slice):
        where = range(n)[where]
    given = torch.as_tensor(np.asarray(where) if not isinstance(where, Tensor) else where)
    if given.numel() == 0:
        msg = f"`where` names none of the {n} coordinates; give at least one."
        raise ValueError(msg)
    if given.dtype is torch.bool:
        if given.shape != (n,):
            msg = f"a mask of shape {tuple(given.shape)} is none of {n} coordinates; give ({n},)."
            raise ValueError(msg)
        given = given.nonzero()
        return as_coordinates(given, n, device)
    if given.dtype.is_floating_point or given.dtype.is_complex:
        msg = f"`where` is in {given.dtype}; give whole numbers, a slice, or a mask of booleans."
        raise ValueError(msg)
    given = given.reshape(-1).to(device=device, dtype=torch.int64)
    if int(given.min()) < 0 or int(given.max()) >= n:
        msg = (
            f"`where` has coordinates from {int(given.min())} to {int(given.max())}; this operator "
            f"has those from 0 to {n - 1}."
        )
        raise ValueError(msg)
    if len(given.unique()) < len(given):
        msg = "`where` names a coordinate twice; a submatrix has each at most once."
        raise ValueError(msg)
    return given

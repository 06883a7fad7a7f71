"""What an operator that is made of another one has of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hesscope.operator.symmetric import SymmetricOperator


class Derived(SymmetricOperator):
    """An operator in the space of another one, A, with products of the same digits."""

    def __init__(self, A: SymmetricOperator) -> None:
        super().__init__(A.n, dtype=A.dtype, device=A.device)
        self.A, self.shared = A, A.shared

    @property
    def precision(self) -> torch.dtype:
        """As that of A."""
        return self.A.precision

    @property
    def plain_inner(self) -> bool:
        """As that of A."""
        return self.A.plain_inner

    @property
    def num_local(self) -> int:
        """As A has it."""
        return self.A.num_local

    def collected(self, found: Tensor) -> Tensor:
        """As A has it."""
        return self.A.collected(found)

    def own_part(self, X: Tensor) -> Tensor:
        """As A has it."""
        return self.A.own_part(X)

    def whole(self, X: Tensor) -> Tensor:
        """As A has it."""
        return self.A.whole(X)

    def inner(self, V: Tensor, W: Tensor) -> Tensor:
        """The inner product of A's space."""
        return self.A.inner(V, W)

    def probe(self, seed: int) -> Tensor:
        """A probe of A's space."""
        return self.A.probe(seed)

    def fresh_seed(self) -> int:
        """As A has it."""
        return self.A.fresh_seed()

    @property
    def writes(self) -> bool:
        """As A has it."""
        return self.A.writes

    def of_one(self, make: Callable[[], Any]) -> Any:
        """As A has it."""
        return self.A.of_one(make)

    def free_bytes(self) -> int:
        """As A has it."""
        return self.A.free_bytes()

    def made_of(self) -> dict[str, str]:
        """What A's are made of."""
        return super().made_of() | self.A.made_of()

    def facts(self) -> dict[str, Any]:
        """The facts of A."""
        return self.A.facts()

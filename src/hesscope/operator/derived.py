"""What an operator that is made of another one has of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hesscope.operator.parts import Parts
from hesscope.operator.place import Place
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

    @property
    def _parts(self) -> Parts:
        """As A has it."""
        return self.A._parts

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

    def _free_bytes(self, place: Place) -> int:
        """As A has it."""
        return self.A._free_bytes(place)

    @property
    def _place(self) -> Place:
        """As A has it."""
        return self.A._place

    def made_of(self) -> dict[str, str]:
        """What A's are made of."""
        return super().made_of() | self.A.made_of()

    def facts(self) -> dict[str, Any]:
        """The facts of A."""
        return self.A.facts()


class StandIn(Derived):
    """A itself, of which products are had in another way: what is known of A holds for it."""

    def __init__(self, A: SymmetricOperator) -> None:
        super().__init__(A)
        self.positive_semidefinite = A.positive_semidefinite

    @property
    def lower_bound(self) -> float:
        """That of A."""
        return self.A.lower_bound

    @property
    def identity_part(self) -> float:
        """That of A."""
        return self.A.identity_part

    def product_noise(self, size: float, asymmetry: float = 0.0) -> float:
        """That of A."""
        return self.A.product_noise(size, asymmetry)

    def tolerance(self, size: float) -> float:
        """That of A."""
        return self.A.tolerance(size)

    def measured_noise(self, v: Tensor) -> float:
        """That of A."""
        return self.A.measured_noise(v)

    def _expression(self) -> str:
        return self.A._expression()

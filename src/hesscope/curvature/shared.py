"""Operators whose products are sums over all processes that share the data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch

from hesscope import probes
from hesscope.curvature.pieces import InPieces
from hesscope.operator import Place, SymmetricOperator
from hesscope.problem.problem import Problem
from hesscope.system import collectives
from hesscope.system.agreement import refuse_unlike, together
from hesscope.system.contents import as_bytes

# Facts that say which arithmetic it is; others depend on free memory, or on what was imported.
ARITHMETIC = ("model", "mode", "product", "expectation", "computed in")


class SharedOperator(SymmetricOperator):
    """A matrix over theta of a problem, which all processes multiply with the same vectors.

    Each does it with its own data.
    """

    shared = True

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.n, dtype=problem.dtype, device=problem.device)
        self.problem = problem

    @property
    def precision(self) -> torch.dtype:
        """The dtype with the fewest digits between theta and the loss, whatever theta is in."""
        return self.problem.weakest

    def made_of(self) -> dict[str, str]:
        """Which arithmetic it is, and checksums of weights and data.

        And how many processes, where sums over vectors are rounded as their pieces are.
        """
        facts = {name: str(fact) for name, fact in self.facts().items() if name in ARITHMETIC}
        weights, batches = hashlib.sha256(), self.problem.batches
        data = repr((collectives.sum_of_integer(batches.checksum), self.problem.num_items))
        for tensor in self.problem.point.watched():
            weights.update(as_bytes(tensor).numpy().data)
        checksums = {
            "weights": weights.hexdigest(),
            "data": hashlib.sha256(data.encode()).hexdigest(),
        }
        if self.device.type != "cpu":
            checksums["number of processes"] = str(collectives.num_processes())
        return super().made_of() | facts | checksums

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files."""
        return collectives.is_first_process()

    def of_one(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, on all of them."""
        with together():
            made = make() if self.writes else None
        return collectives.from_process(0, made)

    def in_pieces(self, made_of_it: SymmetricOperator | None = None) -> SymmetricOperator:
        """This operator, or one made of it, on vectors in pieces over the processes."""
        A = made_of_it or self
        return InPieces(A) if collectives.num_processes() > 1 else A

    def _free_bytes(self, place: Place) -> int:
        """What is free where it is least: all processes have to plan alike."""
        return int(collectives.smallest(super()._free_bytes(place)))

    def drawn_seed(self, given: int | None) -> int:
        """The seed that was given, to all processes, or a fresh one for None."""
        refuse_unlike("seed", given)
        return super().drawn_seed(given)

    def fresh_seed(self) -> int:
        """A seed that nobody has known before, the same in all processes."""
        return shared_seed(None)


def shared_seed(given: int | None) -> int:
    """A given seed, or for None a fresh one that all processes agree on.

    Raises:
        ValueError: if the seed is no integer.
    """
    if given is not None:
        return probes.as_seed(given)
    return int(collectives.from_first(probes.fresh_seed()))

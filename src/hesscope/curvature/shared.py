"""Operators whose products are sums over all processes that share the data."""

from __future__ import annotations

import hashlib

import torch

from hesscope import probes
from hesscope.curvature.pieces import InPieces
from hesscope.operator import SymmetricOperator
from hesscope.problem.problem import Problem
from hesscope.system import collectives
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

        Raises:
            ValueError: if several processes share the data: each would need a folder of its own.
        """
        if collectives.num_processes() > 1:
            msg = (
                "products are kept by one process; leave scratch out where several share the data."
            )
            raise ValueError(msg)
        facts = {name: str(fact) for name, fact in self.facts().items() if name in ARITHMETIC}
        weights, data = hashlib.sha256(), repr(self.problem.batches.fingerprints)
        for tensor in self.problem.point.watched():
            weights.update(as_bytes(tensor).numpy().data)
        checksums = {
            "weights": weights.hexdigest(),
            "data": hashlib.sha256(data.encode()).hexdigest(),
        }
        return super().made_of() | facts | checksums

    def in_pieces(self) -> SymmetricOperator:
        """This operator on vectors in pieces, where there are several processes."""
        return InPieces(self) if collectives.num_processes() > 1 else self

    def free_bytes(self) -> int:
        """What is free where it is least: all processes have to plan alike."""
        return int(collectives.smallest(super().free_bytes()))

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

"""Operators whose products are sums over all processes that share the data."""

from __future__ import annotations

import torch

from hesscope import probes
from hesscope.operator import SymmetricOperator
from hesscope.problem.problem import Problem
from hesscope.system import collectives


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

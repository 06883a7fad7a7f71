"""Operators whose products are sums over all processes that share the data."""

from __future__ import annotations

from hesscope import probes
from hesscope.operator import SymmetricOperator
from hesscope.system import collectives


class SharedOperator(SymmetricOperator):
    """An operator that all processes multiply with the same vectors, each with its own data."""

    shared = True

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

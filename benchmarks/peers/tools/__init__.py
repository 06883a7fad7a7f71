"""How each tool does each piece of work: what is typed, as its own documentation shows it.

Nothing of another tool is imported before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.peers.networks import Network
from benchmarks.peers.work import Answer

Job = Callable[[int], Answer]


@dataclass(frozen=True)
class Way:
    """One call.

    Args:
        call: what a user types.
        prepare: network -> job; what is made once, before the first answer, with its graphs.
        says: what the tool says of the error of its answer.
        at: "defaults", or what was set so that errors can be compared.
    """

    call: str
    prepare: Callable[[Network], Job]
    says: str = "nothing"
    at: str = "defaults"


@dataclass(frozen=True)
class Tool:
    """A package: as it is called, on the index of packages, and in an import."""

    name: str
    package: str
    module: str
    ways: Mapping[str, list[Way]]  # by the work's name

"""Which entries of vectors over theta each process holds: whole parts of `operator/parts.py`."""

from __future__ import annotations

import torch

from hesscope.operator.parts import Parts, parts_of
from hesscope.system import collectives
from hesscope.system.spread import Spread


def shares_of(n: int, device: torch.device) -> list[Parts]:
    """The parts of vectors (n,) that each process holds."""
    parts, num = parts_of(n, device.type == "cpu"), collectives.num_processes()
    return [parts.share(rank, num) for rank in range(num)]


def spread_of(n: int, device: torch.device) -> Spread:
    """How vectors (n,) are spread over the processes.

    >>> spread_of(5, torch.device("cpu")).own  # in one process
    slice(0, 5, None)
    """
    return Spread([sum(share.lengths) for share in shares_of(n, device)])

"""Which entries of vectors over theta each process holds: whole parts of `operator/parts.py`."""

from __future__ import annotations

import torch

from hesscope.operator.parts import parts_of
from hesscope.system import collectives
from hesscope.system.spread import Spread


def spread_of(n: int, device: torch.device) -> Spread:
    """How vectors (n,) are spread over the processes.

    >>> spread_of(5, torch.device("cpu")).own  # in one process
    slice(0, 5, None)
    """
    parts, num = parts_of(n, device.type == "cpu"), collectives.num_processes()
    return Spread([sum(parts.share(rank, num).lengths) for rank in range(num)])

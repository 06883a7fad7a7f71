"""What check_problem calls a planted fault, or a healthy problem."""

from __future__ import annotations

import torch

import hesscope as hs
from tests.planted.faults import FAULTS
from tests.planted.healthy import HEALTHY

DTYPES = (torch.float64, torch.float32)


def names_found(name: str, dtype: torch.dtype, seed: int) -> str:
    """The name of the first fault; empty where there is none."""
    make = FAULTS[name][1] if name in FAULTS else HEALTHY[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        check = hs.check_problem(make(dtype))
    return check.faults[0].name if check.faults else ""

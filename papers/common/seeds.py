"""One job for each of several seeds, kept one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from common.keeping import Arrays, Run


def over(
    run: Run, name: str, key: Any, seeds: Iterable[int], job: Callable[[int], Arrays]
) -> Arrays:
    """What a job finds for each seed, stacked; each seed is kept by itself."""
    found = [run.arrays(f"{name}/{i}", (name, key), lambda i=i: job(i)) for i in seeds]
    return {what: torch.stack([one[what] for one in found]) for what in found[0]}


def scalar(value: float) -> Tensor:
    """A number as a tensor in float64."""
    return torch.tensor(value, dtype=torch.float64)

"""Sums over the processes of torch.distributed; the identity when there is one process."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """How many processes share the data: 1 unless a process group has been initialised."""
    return dist.get_world_size() if _distributed() else 1


def is_first_process() -> bool:
    """Whether this is the process that writes files: the only one, or rank 0."""
    return not _distributed() or dist.get_rank() == 0


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of `value` over all processes, the same on each; `value` itself is not changed."""
    if not _distributed():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


def sum_of_number(value: float) -> float:
    """The sum of a Python number over all processes, in float64."""
    if not _distributed():
        return value
    backend_on_gpu = dist.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if backend_on_gpu else "cpu"
    return float(sum_over_processes(torch.tensor(value, dtype=torch.float64, device=device)))


def from_first(value: float) -> float:
    """The number that the first process has, on all of them."""
    return sum_of_number(value if not _distributed() or dist.get_rank() == 0 else 0.0)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

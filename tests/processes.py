"""Runs a function in a few gloo processes and brings back what each returns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def in_processes(function: Callable[[int], Any], num: int) -> list[Any]:
    """[function(0), ..., function(num - 1)], each in a process of its own in one gloo group."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_work, (num, folder, function), nprocs=num)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(num)]


def _work(rank: int, num: int, folder: str, function: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=num)
    torch.save(function(rank), Path(folder) / f"{rank}.pt")
    dist.barrier()  # nobody leaves while another still talks
    dist.destroy_process_group()

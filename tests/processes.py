"""Runs a function in a few gloo processes and brings back what each returns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

USUAL = timedelta(minutes=2)


def in_processes(function: Callable[[int], Any], num: int) -> list[Any]:
    """[function(0), ..., function(num - 1)], each in a process of its own in one gloo group."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_work, (num, folder, function, (), USUAL), nprocs=num)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(num)]


def outcomes(
    function: Callable[..., Any], args: tuple[Any, ...], num: int, *, patience: timedelta
) -> list[Any]:
    """[function(rank, *args)], None of those that die; when the first returns, all end."""
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.get_context("spawn")
        given = (num, folder, function, args, patience)
        processes = [context.Process(target=_work, args=(rank, *given)) for rank in range(num)]
        for process in processes:
            process.start()
        processes[0].join()
        for process in processes[1:]:
            process.kill()
            process.join()
        paths = [Path(folder) / f"{rank}.pt" for rank in range(num)]
        return [torch.load(path) if path.exists() else None for path in paths]


def _work(
    rank: int,
    num: int,
    folder: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    patience: timedelta,
) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=num, timeout=patience
    )
    result = function(rank, *args)
    torch.save(result, Path(folder) / f"{rank}.pt")
    if not args:
        dist.barrier()  # nobody leaves while another still talks
        dist.destroy_process_group()

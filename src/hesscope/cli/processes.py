"""A command under torchrun: the same command in every process, and one of them tells."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from hesscope.cli import words
from hesscope.cli.spectra import is_series

TOGETHER = ("check", "diagnose", "spectrum", "slice")  # measure what processes may share
OUTPUTS = ("save", "report", "figure")
PATIENCE = 600  # seconds: torch's half an hour is paid for by all who wait


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """How long processes wait for one another."""
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE,
        metavar="SECONDS",
        help="under torchrun: how long all wait for a process that is stuck, before they name it "
        f"and end ({PATIENCE}); longer than the share of a product that one of them makes",
    )


def launched() -> int:
    """How many processes torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process tells, and ends with the status of the command."""
    return words.process is None


@contextmanager
def joined(options: argparse.Namespace) -> Iterator[None]:
    """Inside, all processes that torchrun has started look together; the first tells and saves.

    Raises:
        RuntimeError: if they do not meet.
    """
    if launched() < 2 or options.command not in TOGETHER:
        yield
        return
    import torch
    from torch import distributed as dist

    own, patience = not dist.is_initialized(), timedelta(seconds=max(1.0, options.patience))
    if own and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl", timeout=patience)
    elif own:
        dist.init_process_group("gloo", timeout=patience)
    if dist.get_rank() > 0:
        _be_silent(options)
    try:
        yield
        dist.barrier()  # or torchrun ends the first where another has gone before
    finally:
        words.process = None
        if own:
            dist.destroy_process_group()


def _be_silent(options: argparse.Namespace) -> None:
    """Neither writes nor prints, but errors of its own, and checkpoints that it measures alone."""
    words.process = int(os.environ["RANK"])
    options.output.muted = True
    for name in OUTPUTS:
        if hasattr(options, name) and not (name == "save" and is_series(options)):
            setattr(options, name, None)

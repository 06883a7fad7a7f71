"""--resume: products that are kept until the result has been told."""

from __future__ import annotations

import argparse
import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import hesscope as hs
from hesscope.cli.words import remark
from hesscope.operator.kept import KeptProducts, threads_of
from hesscope.system import interrupts
from hesscope.system.locks import Locked
from hesscope.system.memory import human


@dataclass
class Done:
    """Whether all that was asked for is known, so that nothing need be kept."""

    whole: bool = False


@contextlib.contextmanager
def resumable(
    problem: hs.Problem, options: argparse.Namespace, folder: Path | None, most: int
) -> Iterator[tuple[hs.SymmetricOperator, Done]]:
    """The Hessian; with a folder its products are kept until all is done, and said to be.

    Args:
        problem: that is looked at.
        options: whose seed becomes that of the run which is kept.
        folder: of the products; None keeps none.
        most: products that may have to be kept.

    Raises:
        ValueError: if the folder keeps something else, or a run of another seed.
        RuntimeError: if another run works in the folder, or it cannot be written.
    """
    H, done = hs.Hessian(problem, getattr(options, "product", "auto")), Done()
    if folder is None:
        yield H, done
        return
    before = interrupts.so_far()
    with Locked(folder) if H.writes else contextlib.nullcontext(), _as_many_threads(H, folder):
        kept = KeptProducts(H, folder)
        options.seed = kept.seed_of_run(options.seed)
        _announce(kept, most)
        try:
            yield kept, done
        finally:
            told = done.whole and interrupts.so_far() == before
            if not told and kept.num_kept:
                remark(f"kept to go on from: {folder}")
        if told:
            kept.forget()
    if not H.writes:
        return
    with contextlib.suppress(OSError):  # something else lies in it
        folder.rmdir()


@contextlib.contextmanager
def _as_many_threads(H: hs.SymmetricOperator, folder: Path) -> Iterator[None]:
    """Inside, torch has as many threads as when the run was begun: sums are rounded likewise.

    torchrun gives each process one, and a process that goes on alone would have all.
    """
    own, first = torch.get_num_threads(), H.of_one(lambda: threads_of(folder))
    if first in (None, own):
        yield
        return
    remark(f"as many threads as when {folder} was begun: {first}, not {own}")
    torch.set_num_threads(first)
    try:
        yield
    finally:
        torch.set_num_threads(own)


def _announce(kept: KeptProducts, most: int) -> None:
    """What is there already, or what the disk will have to hold at most."""
    if kept.num_kept:
        text = f"going on from {kept.num_kept} products in {kept.folder}"
    else:
        row, free = kept.n * kept.dtype.itemsize, shutil.disk_usage(kept.folder).free
        text = (
            f"keeping products in {kept.folder}: {human(row)} for each, {human(most * row)} for "
            f"{most}, which is the most; {human(free)} are free there"
        )
    remark(text)

"""Groups of points among several processes, which are copies of this one (fork).

A copy holds the model, the loss and the data as they are, whatever they are made of: nothing has to
be pickled but numbers. Each has one thread, so that every number of processes, one included, does
the same arithmetic.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

import torch
from torch import Tensor

from hesscope.landscape.ways import Plane
from hesscope.system import collectives

Work = Callable[[Tensor], Tensor]  # coordinates of a group -> losses


@dataclass(frozen=True)
class Spread:
    """How many processes take part."""

    workers: int | None  # None: this one, with all its threads
    words: str = ""  # what is to be told of it

    @classmethod
    def of(cls, plane: Plane, workers: int | None) -> Spread:
        """As many as were asked for, where they can be of use."""
        why = "" if workers in (None, 1) else _no_use(plane)
        if why:
            return cls(1, f", in this process: {why}")
        return cls(workers, "" if workers in (None, 1) else f", in {workers} processes")

    def over(self, work: Work, groups: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
        """(number of a group, its losses), as they come.

        Raises:
            RuntimeError: if a process ends early.
        """
        if self.workers is None:
            for i, group in enumerate(groups):
                yield i, work(group)
            return
        if self.workers == 1 or len(groups) == 1:
            for i, group in enumerate(groups):
                with _one_thread():
                    losses = work(group)
                yield i, losses
            return
        yield from _forked(work, groups, min(self.workers, len(groups)))


def _no_use(plane: Plane) -> str:
    """Why there are to be no processes; empty if there may be."""
    if plane.origin.device.type != "cpu":
        return "the model is not on the CPU"
    if "fork" not in multiprocessing.get_all_start_methods():
        return "this system copies no process"
    # A thread that Python has not begun is in the list only if it happened to ask for its name.
    if sum(not thread.name.startswith("Dummy-") for thread in threading.enumerate()) > 1:
        return "there are other threads, which a copy would not have"
    if collectives.num_processes() > 1:
        return "this process is one of several already"
    return "" if plane.problem.batches.cached else "the data is read again and again"


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _forked(work: Work, groups: list[Tensor], num: int) -> Iterator[tuple[int, Tensor]]:
    """Every num-th group by each process.

    Raises:
        RuntimeError: if one ends early.
    """
    context = multiprocessing.get_context("fork")
    started: dict[Connection, ForkProcess] = {}
    try:
        for first in range(num):
            reader, writer = context.Pipe(duplex=False)
            mine = range(first, len(groups), num)
            arguments = (work, groups, mine, writer, [*started, reader])
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            writer.close()
            started[reader] = process
        missing, open_ones = len(groups), list(started)
        while missing:
            ready = wait(open_ones)
            for reader in [one for one in open_ones if one in ready]:
                found = _received(reader, started[reader])
                if found is None:
                    open_ones.remove(reader)
                    continue
                missing -= 1
                yield found
    finally:
        for reader, process in started.items():
            reader.close()
            process.kill()  # it holds nothing that is to be put back
            process.join()


def _received(reader: Connection, process: ForkProcess) -> tuple[int, Tensor] | None:
    """A group and its losses; None if the process has done all that it had to do.

    Raises:
        RuntimeError: if it ended early.
        Exception: what the user's code has raised there.
    """
    try:
        i, found = reader.recv()
    except EOFError:
        process.join()
        msg = (
            f"a worker ended with exit code {process.exitcode} before its points were measured. It "
            "may have run out of memory: ask for fewer workers. With scratch=, finished points are "
            "kept."
        )
        raise RuntimeError(msg) from None
    if i is None:
        if found is not None:
            raise found
        return None
    return i, torch.tensor(found, dtype=torch.float64)


def _serve(
    work: Work, groups: list[Tensor], mine: range, writer: Connection, others: list[Connection]
) -> None:
    """The life of a process: it ends with its parent, whose ends of the pipes are closed here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, which gets it too, ends this one
    for reader in others:
        reader.close()
    torch.set_num_threads(1)
    last: tuple[None, Any] = (None, None)
    try:
        for i in mine:
            writer.send((i, work(groups[i]).tolist()))
    except BrokenPipeError:
        return
    except Exception as error:
        last = (None, _sendable(error))
    writer.send(last)


def _sendable(error: Exception) -> Exception:
    """The error, or what it says where it cannot be sent."""
    known = type(error).__module__ in ("builtins", "torch")
    return error if known else RuntimeError(f"{type(error).__name__}: {error}")

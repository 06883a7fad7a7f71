"""How far long work is: a bar in a terminal or a notebook, lines in a log."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hesscope.system.collectives import is_first_process
from hesscope.system.progress import listening

PATIENCE = 2.0  # seconds of work before a bar appears
BETWEEN_LINES = 30.0  # seconds


@contextmanager
def progress(file: TextIO | None = None, *, every: float = BETWEEN_LINES) -> Iterator[None]:
    """Inside, work of more than two seconds says how far it is and how long it will take.

    A bar in a terminal, and in a notebook with ipywidgets; else, as in the log of a batch job, a
    line now and then.

    Args:
        file: where to write, by default standard error.
        every: seconds between two lines of a log.

    Raises:
        ValueError: if `every` is not above zero.

    >>> import sys, torch, hesscope as hs
    >>> with hs.progress():  # nothing appears for what takes no two seconds
    ...     top = hs.eigsh(torch.diag(torch.arange(50.0)), 1)
    """
    if not every > 0:
        msg = f"every={every} seconds; give a number above zero, such as 30."
        raise ValueError(msg)
    if not is_first_process():  # which tells for all
        yield
        return
    stream = sys.stderr if file is None else file
    console = Console(file=stream)
    if not (console.is_terminal or (console.is_jupyter and _has_widgets())):
        with listening(_Lines(stream, every)):
            yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True)
    try:
        with listening(_Bar(bar)):
            yield
    finally:
        bar.stop()


class _Bar:
    """Feeds a rich progress bar, which starts only when the work proves to be long."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.label, self.since, self.started = "", 0.0, False

    def __call__(self, label: str, done: int, total: int | None) -> None:
        if label != self.label:
            self.label, self.since = label, time.monotonic()
            for task in self.bar.task_ids:
                self.bar.remove_task(task)
            self.task = self.bar.add_task(label, total=total)
        self.bar.update(self.task, completed=done, total=total)
        if not self.started and time.monotonic() - self.since > PATIENCE:
            self.bar.start()
            self.started = True


class _Lines:
    """Writes a line where the last one is `every` seconds old, the first as late."""

    def __init__(self, stream: TextIO, every: float) -> None:
        self.stream, self.every = stream, every
        self.told = time.monotonic()
        self.label, self.since, self.first = "", 0.0, 0

    def __call__(self, label: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if label != self.label:
            self.label, self.since, self.first = label, now, done
        if now - self.told < self.every:
            return
        self.told = now
        of = "" if total is None else f" of {total:,}"
        left = _left(done - self.first, None if total is None else total - done, now - self.since)
        print(f"{label}: {done:,}{of}{left}", file=self.stream, flush=True)


def _left(made: int, missing: int | None, seconds: float) -> str:
    """The time that the missing units take at the pace of those that were made.

    >>> _left(10, 20, 60.0), _left(10, None, 60.0), _left(0, 5, 1.0), _left(100, 4000, 90.0)
    (', 2:00 left', '', '', ', 1:00:00 left')
    """
    if missing is None or made <= 0:
        return ""
    whole = math.ceil(seconds * missing / made)
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f", {hours}:{minutes:02}:{rest:02} left" if hours else f", {minutes}:{rest:02} left"


def _has_widgets() -> bool:
    """Whether a notebook can show what changes."""
    import importlib.util

    return importlib.util.find_spec("ipywidgets") is not None

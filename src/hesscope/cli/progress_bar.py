"""A progress bar on standard error for work of more than two seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hesscope.system.progress import listening

PATIENCE = 2.0  # seconds of work before a bar appears


@contextmanager
def showing_progress() -> Iterator[None]:
    """Shows units done, their total and the time left, if standard error is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    listener = _Bar(bar)
    try:
        with listening(listener):
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

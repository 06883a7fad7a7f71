"""SIGTERM as schedulers send it: what is known by then is saved, like after Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED, TERMINATED = 130, 143  # 128 + the signal, as shells say it


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came. Whoever ends early on Ctrl-C with what is known does so here, too."""


class Stop:
    """By which signal the work was stopped; the exit status says so."""

    status = INTERRUPTED


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside, SIGTERM interrupts as Ctrl-C does."""
    stop = Stop()

    def terminate(*_: Any) -> None:
        stop.status = TERMINATED
        raise TerminatedError

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

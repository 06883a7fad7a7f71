"""Long work says how far it is to whoever listens; by default nobody does.

The library never prints. A command line, a notebook or a test listens with `listening`::

    with listening(lambda label, done, total: print(label, done, total)):
        hs.eigsh(H, k=10)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int | None], None]

_listener: ContextVar[Listener | None] = ContextVar("hesscope_progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Calls `listener(label, done, total)` for every unit of work inside; total None is unknown."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def overhearing(listener: Listener) -> Iterator[None]:
    """Calls `listener` for every unit of work inside, beside whoever listens already."""
    usual = _listener.get()

    def both(label: str, done: int, total: int | None) -> None:
        listener(label, done, total)
        if usual is not None:
            usual(label, done, total)

    with listening(both):
        yield


def report(label: str, done: int, total: int | None = None) -> None:
    """Tells the listener, if there is one, that `done` of `total` units of `label` are finished.

    >>> seen = []
    >>> with listening(lambda *event: seen.append(event)):
    ...     report("eigsh", 3, 10)
    >>> seen
    [('eigsh', 3, 10)]
    """
    listener = _listener.get()
    if listener is not None:
        listener(label, done, total)

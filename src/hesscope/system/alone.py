"""Whether this process works by itself for a while, though there are others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_entered = 0  # of the process, not of a thread: torch runs backward passes in threads of its own


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process is the only one: it sums, compares and waits for nothing.

    >>> with alone():
    ...     is_alone()
    True
    """
    global _entered
    _entered += 1
    try:
        yield
    finally:
        _entered -= 1


def is_alone() -> bool:
    """Whether it does."""
    return _entered > 0

"""Interrupts that ended a computation early and were not passed on, since part of it is of use."""

from __future__ import annotations

_swallowed = 0


def note() -> None:
    """To be called by whoever catches a KeyboardInterrupt and returns what was found until then."""
    global _swallowed
    _swallowed += 1


def so_far() -> int:
    """How many there have been; a caller that does more than one thing compares before and after.

    >>> before = so_far()
    >>> note()
    >>> so_far() - before
    1
    """
    return _swallowed

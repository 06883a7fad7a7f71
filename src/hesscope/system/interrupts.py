"""Interrupts: some end a computation early and part of it is of use; all wait for restorations.

Python raises KeyboardInterrupt, or whatever a signal's handler raises, between any two calls, also
in the middle of a `finally` that puts a model back, or just before it. So hesscope changes what
belongs to the user (modes, gradients, generators, switches of torch, files) inside `deferred` only:
there the handlers of signals are its own and note what came. User code is run by `interruptible`,
where the signal's own handler is called at once, and what is noted is told as soon as everything
is back in its place.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 3.0  # seconds after which a signal that comes again is not made to wait
# Those by which users and schedulers stop a process.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]

_swallowed = 0


def note() -> None:
    """To be called by whoever catches a KeyboardInterrupt and returns what was found until then.

    Of several processes each is interrupted at another place, so that what they have found would
    not fit together: the interrupt goes on, and ends them.

    Raises:
        KeyboardInterrupt: where there are other processes.
    """
    from hesscope.system.agreement import several  # torch is there, or nothing was caught

    global _swallowed
    _swallowed += 1
    if several():
        raise KeyboardInterrupt


def so_far() -> int:
    """How many there have been; a caller that does more than one thing compares before and after.

    >>> before = so_far()
    >>> note()
    >>> so_far() - before
    1
    """
    return _swallowed


class _Main:
    """What happens to signals now. Of the main thread, as Python handles signals in no other."""

    waiting = False  # whether signals are made to wait
    depth = 0
    since = 0.0  # when the first of the pending ones came
    pending: list[int]
    handlers: dict[int, Any]  # the signals' own

    def __init__(self) -> None:
        self.pending, self.handlers = [], {}


_main = _Main()


def _forget_in_child() -> None:
    """A process that is forked from the midst of it has nothing to put back."""
    _main.waiting = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


class deferred:  # noqa: N801  used as `with deferred():`
    """Inside, signals with handlers of Python's wait, and are handled when the outermost ends.

    Whoever insists, by the same signal more than three seconds later, is not made to wait.

    >>> import signal
    >>> before = signal.signal(signal.SIGINT, signal.default_int_handler)
    >>> done = []
    >>> try:
    ...     with deferred():
    ...         signal.raise_signal(signal.SIGINT)
    ...         done.append("all")
    ... except KeyboardInterrupt:
    ...     print(done)
    ['all']
    >>> _ = signal.signal(signal.SIGINT, before)
    """

    # Python looks for signals when a function is entered, after a call, and at the end of a loop's
    # body: a plain assignment, or two in a row, cannot be interrupted.

    def __enter__(self) -> None:
        self._inside = threading.current_thread() is threading.main_thread()
        if not self._inside:
            return
        before = _main.waiting
        _main.waiting = True
        self._before = before
        if _main.depth == 0:
            try:
                _take_over()
            except BaseException:
                _main.waiting = before
                raise
        _main.depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._inside:
            return
        _main.depth -= 1
        if _main.depth == 0:
            try:
                _put_back()
            finally:
                _main.waiting = self._before
        else:
            _main.waiting = self._before
        if not _main.waiting:
            _handle_pending()


def interruptible(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's value; a signal that comes meanwhile, or has come, is handled at once.

    For user code that is run inside `deferred`: whatever the handler raises comes out of here.
    """
    if not _main.waiting or threading.current_thread() is not threading.main_thread():
        return function(*args, **kwargs)
    try:
        _main.waiting = False
        if _main.pending:
            _handle_pending()
        return function(*args, **kwargs)
    finally:
        _main.waiting = True


def _receive(number: int, frame: FrameType | None) -> None:
    """The handler while signals wait."""
    now = time.monotonic()
    again = number in _main.pending and now - _main.since > PATIENCE
    if _main.waiting and not again:
        if not _main.pending:
            _main.since = now
        if number not in _main.pending:
            _main.pending.append(number)
        return
    if again:
        _main.pending.remove(number)
    _main.handlers[number](number, frame)


def _take_over() -> None:
    _main.pending.clear()
    own = {number: signal.getsignal(number) for number in _SIGNALS}
    _main.handlers = {number: handler for number, handler in own.items() if callable(handler)}
    try:
        for number in _main.handlers:
            signal.signal(number, _receive)
    except BaseException:  # by the handler of one that was not yet taken
        _put_back()
        raise


def _put_back() -> None:
    """Gives signals back to their handlers, all of them also if one that is back raises."""
    left, raised = list(_main.handlers.items()), None
    while True:
        try:
            while left:
                number, handler = left[-1]
                if signal.getsignal(number) is _receive:  # else the user has set another meanwhile
                    signal.signal(number, handler)
                left.pop()
            break
        except BaseException as error:  # raised below
            raised = error
    if raised is not None:
        raise raised


def _handle_pending() -> None:
    while _main.pending:
        number = _main.pending.pop(0)
        _main.handlers[number](number, None)

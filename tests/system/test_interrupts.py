"""Signals wait for restorations, and nothing else waits for signals."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from hesscope.system import interrupts
from hesscope.system.interrupts import deferred, interruptible

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture(autouse=True)
def ctrl_c():
    """SIGINT raises, also where the tests run as a job in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def handlers(ctrl_c):
    """Each test ends with the handlers with which it began."""
    before = [signal.getsignal(number) for number in interrupts._SIGNALS]
    yield
    assert [signal.getsignal(number) for number in interrupts._SIGNALS] == before
    assert (interrupts._main.depth, interrupts._main.waiting) == (0, False)


def interrupt():
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_comes_when_the_outermost_ends():
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():  # noqa: PT012
        with deferred():
            interrupt()
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]


def test_user_code_is_interrupted_at_once_and_what_surrounds_it_is_put_back():
    done = []

    def users():
        interrupt()
        done.append("not reached")

    with pytest.raises(KeyboardInterrupt), deferred():  # noqa: PT012
        try:
            interruptible(users)
        finally:
            interrupt()
            done.append("put back")
    assert done == ["put back"]


def test_a_pending_interrupt_comes_before_user_code_begins():
    with pytest.raises(KeyboardInterrupt), deferred():  # noqa: PT012
        interrupt()
        interruptible(pytest.fail, "was called")


def test_hesscope_inside_user_code_inside_hesscope():
    done = []

    def users():
        with deferred():
            interrupt()
            done.append("inner")
        done.append("not reached")

    with pytest.raises(KeyboardInterrupt), deferred():
        interruptible(users)
    assert done == ["inner"]


def test_values_and_errors_pass():
    with deferred():
        assert interruptible(int, "7") == 7
        with pytest.raises(ValueError, match="invalid literal"):
            interruptible(int, "x")
        assert interrupts._main.waiting
    with pytest.raises(ZeroDivisionError), deferred():
        1 / 0  # noqa: B018
    assert interruptible(int, "7") == 7


def test_whoever_insists_is_not_made_to_wait(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: clock[0])
    with pytest.raises(KeyboardInterrupt), deferred():  # noqa: PT012
        interrupt()
        interrupt()
        clock[0] = 3.5
        interrupt()
        pytest.fail("was made to wait")


def test_a_handler_of_ones_own_is_called_once_and_raises_what_it_likes():
    calls = []

    def own(number, _):
        calls.append(number)
        raise ZeroDivisionError

    before = signal.signal(signal.SIGUSR1, own)
    try:
        with pytest.raises(ZeroDivisionError), deferred():  # noqa: PT012
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert calls == []
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert calls == [signal.SIGUSR1]


def test_a_handler_that_is_set_inside_stays():
    def other(*_): ...

    before = signal.getsignal(signal.SIGUSR2)
    with deferred():
        assert signal.getsignal(signal.SIGINT) is interrupts._receive
        signal.signal(signal.SIGUSR2, other)
    assert signal.getsignal(signal.SIGUSR2) is other
    signal.signal(signal.SIGUSR2, before)


def test_other_threads_have_no_signals_to_wait_for():
    def work():
        with deferred():
            seen.append(signal.getsignal(signal.SIGINT))

    seen, before = [], signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]

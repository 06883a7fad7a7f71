"""Progress: a bar where somebody looks, lines in a log with the time that is left."""

from __future__ import annotations

import io

import pytest
import torch

import hesscope as hs
from hesscope.system import progress as events
from hesscope.system import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Time that the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then_with_the_time_that_is_left(clock):
    log = io.StringIO()
    with hs.progress(log, every=30):
        for done in range(1, 101):
            events.report("eigenpairs: matvecs", done, 400)
            clock[0] += 1
    assert log.getvalue().splitlines() == [
        "eigenpairs: matvecs: 31 of 400, 6:09 left",
        "eigenpairs: matvecs: 61 of 400, 5:39 left",
        "eigenpairs: matvecs: 91 of 400, 5:09 left",
    ]


def test_what_has_no_total_has_no_time_left_and_new_work_begins_anew(clock):
    log = io.StringIO()
    with hs.progress(log, every=10):
        events.report("checking the model", 0)
        clock[0] += 11
        events.report("checking the model", 5)
        clock[0] += 11
        events.report("trace: matvecs", 3, 10)
        clock[0] += 11
        events.report("trace: matvecs", 5, 10)
    assert log.getvalue().splitlines() == [
        "checking the model: 5",
        "trace: matvecs: 3 of 10",
        "trace: matvecs: 5 of 10, 0:28 left",
    ]


def test_short_work_says_nothing(clock):
    for stream in (io.StringIO(), Terminal()):
        with hs.progress(stream):
            events.report("short", 1, 2)
            clock[0] += 1
            events.report("short", 2, 2)
        assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with hs.progress(stream):
        events.report("long", 1, 4)
        clock[0] += 3
        events.report("long", 2, 4)
    assert "long" in stream.getvalue()
    assert "2/4" in stream.getvalue()


def test_nobody_listens_afterwards_also_after_an_error(clock):
    log = io.StringIO()
    with pytest.raises(ValueError, match="k="), hs.progress(log, every=1):
        hs.eigsh(torch.eye(3), 0)
    clock[0] += 100
    events.report("later", 1, 2)
    assert log.getvalue() == ""


def test_it_listens_to_real_work():
    log = io.StringIO()
    with hs.progress(log, every=1e-9):
        hs.eigsh(torch.diag(torch.arange(60.0)), 2)
    assert "eigenpairs: matvecs" in log.getvalue()


def test_a_time_between_lines_has_to_be_one():
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="above zero"), hs.progress(every=bad):
            pass

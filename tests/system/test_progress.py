"""Progress reaches the listener, and nobody else."""

from __future__ import annotations

import threading

import pytest
import torch

import hesscope as hs
from hesscope.system.progress import listening, report


def test_without_a_listener_nothing_happens(capsys):
    report("work", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_listener_hears_everything_inside_and_nothing_outside():
    heard = []
    report("before", 1)
    with listening(lambda *event: heard.append(event)):
        report("inside", 1, 2)
        report("unknown length", 3)
    report("after", 1)
    assert heard == [("inside", 1, 2), ("unknown length", 3, None)]


def test_the_inner_listener_replaces_the_outer_for_its_time():
    outer, inner = [], []
    with listening(lambda *event: outer.append(event)):
        with listening(lambda *event: inner.append(event)):
            report("a", 1)
        report("b", 1)
    assert (inner, outer) == ([("a", 1, None)], [("b", 1, None)])


def test_a_listener_ends_with_its_block_even_after_an_error():
    heard = []
    with pytest.raises(ZeroDivisionError), listening(lambda *event: heard.append(event)):
        raise ZeroDivisionError
    report("after", 1)
    assert heard == []


def test_other_threads_are_not_heard():
    heard = []
    with listening(lambda *event: heard.append(event)):
        thread = threading.Thread(target=report, args=("thread", 1))
        thread.start()
        thread.join()
    assert heard == []


def test_eigsh_counts_up_by_one_and_never_beyond_its_forecast():
    heard = []
    A = hs.as_operator(torch.diag(torch.arange(40.0).double()))
    with listening(lambda *event: heard.append(event)):
        pairs = hs.eigsh(A, 3)
    assert [done for _, done, _ in heard] == list(range(1, pairs.num_matvecs + 1))
    assert all(done <= total for _, done, total in heard)


def test_to_dense_reports_its_last_column():
    heard = []
    A = hs.as_operator(lambda V: V, 100)
    with listening(lambda *event: heard.append(event)):
        A.to_dense(chunk=30)
    assert [event[1:] for event in heard] == [(30, 100), (60, 100), (90, 100), (100, 100)]

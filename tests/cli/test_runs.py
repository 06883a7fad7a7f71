"""Runs on the command line: what is shown is what was written, also while it is being written."""

from __future__ import annotations

import json
import math
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import hesscope as hs
from hesscope import store
from hesscope.cli import main
from hesscope.cli.sparkline import BLOCKS, sparkline
from hesscope.cli.watch import _growing, view
from hesscope.results.history import Event, History, Series
from hesscope.results.limits import factor, lambda_max_limit

STEPS = range(0, 1000, 10)


def numbers(step: int) -> dict[str, float]:
    """A run of gradient descent that goes over its limit of 2/lr = 20 at step 800."""
    top = 1 + step / 40
    return {
        "loss": 2.0 / (1 + step),
        "gradient_norm": 1.0,
        "lr": 0.1,
        "lambda_max": top,
        "lambda_max_upper": top + 1 if step % 100 == 0 else math.nan,
        "step_sharpness": 0.1 * top,
        "sharpness_over_limit": 0.05 * top,
    }


def history(**more: object) -> History:
    table: dict[str, dict[int, float]] = {}
    for step in STEPS:
        for key, value in numbers(step).items():
            table.setdefault(key, {})[step] = value
    return History.of(table, **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with store.RunFolder(tmp_path / "run") as run:
        run.tell({"optimizer": "SGD", "n": 1234})
        for step in STEPS:
            run.add(step, numbers(step))
        run.add(995, {}, events=[Event(995, "switched off", "no longer measured: layers (why)")])
    return tmp_path / "run"


# One line of text


def test_no_spike_is_lost_in_a_line_however_short() -> None:
    values = torch.ones(100_000).double()
    values[31_337] = 20.0
    drawn = sparkline(Series(torch.arange(100_000), values), 40, (0, 99_999))
    assert len(drawn) == 40
    assert drawn.count(BLOCKS[-1]) == 1
    assert drawn.index(BLOCKS[-1]) == 31_337 * 40 // 100_000


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0], "▄▄▄▄"),
        ([1.0, math.nan, math.inf, 2.0], "▁▁▁█"),
        ([math.nan] * 4, "    "),
        ([1.0, 10.0, 100.0, 1000.0], "▁▃▆█"),  # a factor of 10 or more: logarithmic
        ([-2.0, 0.0, 2.0, math.nan], "▁▄█ "),
    ],
)
def test_a_line_of_few_values(values: list[float], expected: str) -> None:
    series = Series(torch.arange(4), torch.tensor(values).double())
    assert sparkline(series, 4, (0, 3)).replace("▅", "▄") == expected


# The limits


def test_the_limit_of_sgd_is_two_over_lr_whatever_the_weight_decay() -> None:
    plain = history()
    assert factor(plain).values.tolist() == pytest.approx([2.0] * 100)
    assert lambda_max_limit(plain).values.tolist() == pytest.approx([20.0] * 100)
    decayed = {"lambda_max": {0: 3.0}, "lr": {0: 0.1}}
    decayed |= {"step_sharpness": {0: 0.35}, "sharpness_over_limit": {0: 0.175}}
    assert lambda_max_limit(History.of(decayed)).values.tolist() == pytest.approx([19.5])


def test_an_adaptive_optimiser_has_no_limit_of_lambda_max() -> None:
    adam = History.of(
        {
            "lambda_max": {0: 3.0, 5: 4.0},
            "lr": {0: 0.1},
            "step_sharpness": {5: 19.0},
            "step_sharpness_age": {5: 0.0},
            "sharpness_over_limit": {5: 0.5},
        }
    )
    assert len(lambda_max_limit(adam)) == 0
    assert factor(adam).values.tolist() == [38.0]
    assert "limit 38" in str(view(adam, Path("run"), 100))


def test_where_nothing_is_known_there_is_no_limit() -> None:
    assert len(lambda_max_limit(History({}))) == 0
    still = {"lambda_max": {0: 3.0}, "lr": {0: 0.0}}
    still |= {"step_sharpness": {0: 0.0}, "sharpness_over_limit": {0: 0.0}}
    assert len(lambda_max_limit(History.of(still))) == 0


# What is shown


@pytest.mark.parametrize("width", [20, 42, 80, 120, 300])
def test_a_view_keeps_to_its_width(width: int) -> None:
    events = tuple(Event(i, "x", f"event {i} " + "long " * 100) for i in range(8))
    shown = str(view(history(events=events), Path("run"), width)).splitlines()
    assert max(map(len, shown)) <= width
    assert any(line.startswith("λmax") for line in shown)
    assert "3 earlier events" in shown
    assert [line[:14] for line in shown if line.startswith("step ")][-1] == "step 7: event "


def test_a_view_tells_what_was_measured() -> None:
    shown = str(view(history(facts={"optimizer": "SGD", "n": 1234}), Path("run"), 110))
    assert "step 990 · SGD · n = 1,234 · run" in shown
    assert "limit 20, ≤ 24.5 at 900" in shown
    assert "above 1 at 23 of 100" in shown
    assert "0.002018 to 2, log" in shown
    assert "written" not in shown
    assert "written 3 min ago" in str(view(history(), Path("run"), 110, age=200))


def test_once_prints_and_exits_and_so_does_a_pipe(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([], ["--once"]):
        assert main(["watch", str(folder), *arguments]) == 0
        out = capsys.readouterr().out
        assert "step 990 · SGD" in out
        assert "no longer measured: layers (why)" in out
        assert "\x1b" not in out


def test_a_run_of_which_nothing_is_known_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with store.RunFolder(tmp_path):
        assert main(["watch", str(tmp_path)]) == 0
    assert "nothing has been written yet" in capsys.readouterr().out


def test_a_journal_that_goes_just_now_is_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, broken = store.read, iter([False, True, True, False])

    def unlucky(*arguments: Any, **parts: Any) -> History:
        if next(broken):
            msg = "cannot read it: it is being closed"
            raise RuntimeError(msg)
        return read(*arguments, **parts)

    monkeypatch.setattr(store, "read", unlucky)
    growing = _growing(folder, 0.001)
    assert [len(next(growing)[0]) for _ in range(4)] == [100] * 4
    assert list(broken) == []


def test_what_cannot_be_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path)]) == 2
    assert "holds no run.sqlite" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["watch", str(tmp_path), "--every", "0"])
    assert "is no number of seconds" in capsys.readouterr().err


def test_it_grows_in_a_terminal_while_it_is_written_and_ctrl_c_ends_it(folder: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    command = [sys.executable, "-m", "hesscope", "watch", str(folder), "--every", "0.1"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = _until(ours, "step 990")
    with store.RunFolder(folder) as run:
        run.add(2000, {"loss": 7.125})
        seen += _until(ours, "step 2,000")
    assert "7.125" in seen
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    os.close(ours)


def _until(terminal: int, words: str) -> str:
    """What a terminal has shown when these words are there."""
    seen, end = "", time.monotonic() + 120
    while words not in seen:
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 1.0)[0]:
            seen += os.read(terminal, 65536).decode("utf-8", "replace")
    return seen


# show


def test_show_prints_the_history_of_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "steps 0 to 990, 7 quantities" in out
    assert f"torch {torch.__version__}" in out
    assert main(["show", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["series"]["lambda_max"]["steps"] == list(STEPS)


def test_reading_without_results_leaves_them_alone(tmp_path: Path) -> None:
    with store.RunFolder(tmp_path) as run:
        run.add(0, {"loss": 1.0}, results={"trace": hs.Estimate(1.5, 0.25, 10)})
    assert store.read(tmp_path, results=False).results == {}
    assert len(store.read(tmp_path).results) == 1

"""The run folder: what was written is there, whole, whoever reads and whatever dies."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import hesscope as hs
from hesscope import store
from hesscope.results.history import Event

SPECTRUM = hs.Estimate(1.5, 0.25, 10)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with store.RunFolder(tmp_path / "run") as run:
        run.tell({"optimizer": "SGD"})
        run.add(0, {"loss": 2.0, "lambda_max": math.nan})
        run.add(
            10,
            {"loss": 1.0, "lambda_max": math.inf},
            results={"trace/a": SPECTRUM},
            earlier=[("train_loss", 3, 1.5)],
            events=[Event(10, "switched off", "why")],
        )
        meanwhile = hs.load(tmp_path / "run")
    after = hs.load(tmp_path / "run")
    for history in (meanwhile, after):
        assert list(history) == ["loss", "lambda_max", "train_loss"]
        assert history["loss"].steps.tolist() == [0, 10]
        assert math.isnan(history["lambda_max"].values[0])
        assert history["lambda_max"].last == math.inf
        assert history["train_loss"].at(3) == 1.5
        assert history.results == {"trace/a": {10: SPECTRUM}}
        assert history.events == (Event(10, "switched off", "why"),)
        assert history.facts["optimizer"] == "SGD"
        assert history.facts["provenance"]["torch"] == torch.__version__


def test_quantities_keep_the_order_in_which_they_are_measured(tmp_path: Path) -> None:
    keys = [f"quantity {i * 7 % 40}" for i in range(40)]
    with store.RunFolder(tmp_path) as run:
        run.add(0, dict.fromkeys(keys, 1.0))
    assert list(hs.load(tmp_path)) == keys


def test_a_run_is_continued_and_steps_are_replaced(tmp_path: Path) -> None:
    with store.RunFolder(tmp_path) as run:
        run.add(0, {"loss": 2.0})
        run.add(5, {"loss": 1.0}, results={"trace": SPECTRUM})
    with store.RunFolder(tmp_path) as run:
        run.add(0, {"loss": 3.0})
        run.forget_after(3)
        run.add(4, {"trace": 1.0})
    history = hs.load(tmp_path)
    assert history["loss"].values.tolist() == [3.0]
    assert history.results == {}
    assert history.steps.tolist() == [0, 4]


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    code = (
        "import sys, time; from hesscope import store; run = store.RunFolder(sys.argv[1]); "
        "print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(RuntimeError, match=f"process {other.pid} on {os.uname().nodename}"):
            store.RunFolder(tmp_path)
        other.send_signal(signal.SIGKILL)
        other.wait()
        with store.RunFolder(tmp_path) as run:  # what is left of a dead writer is no lock
            run.add(0, {"loss": 1.0})
    with (
        store.RunFolder(tmp_path),
        pytest.raises(RuntimeError, match="by this process already; close"),
    ):
        store.RunFolder(tmp_path)


def test_killed_at_any_moment_nothing_written_before_is_lost(tmp_path: Path) -> None:
    code = """
import sys
import hesscope as hs
from hesscope import store
with store.RunFolder(sys.argv[1]) as run:
    for step in range(run_from := int(sys.argv[2]), 10**9):
        run.add(step, {"loss": step + 0.5}, results={"trace": hs.Estimate(float(step), 0.0, 1)})
        print(step, flush=True)
"""
    first = 0
    for wait in (0.0, 0.01, 0.03):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(first)],
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdout is not None
            told = other.stdout.readline()
            time.sleep(wait)
            other.kill()
            rest = other.stdout.read().split("\n")
        done = [int(line) for line in (told.strip(), *rest[:-1]) if line]
        history = hs.load(tmp_path)
        steps = history["loss"].steps.tolist()
        assert steps == list(range(len(steps)))
        assert len(steps) > max(done)
        assert history["loss"].values.tolist() == [step + 0.5 for step in steps]
        assert {k: e.value for k, e in history.results["trace"].items()} == dict(
            zip(steps, map(float, steps), strict=True)
        )
        first = len(steps)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run\.sqlite"):
        store.read(tmp_path)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(RuntimeError, match="cannot read"):
        hs.load(tmp_path / "damaged")
    with pytest.raises(RuntimeError, match="cannot write to"):
        store.RunFolder(tmp_path / "damaged")
    with store.RunFolder(tmp_path / "new") as run:
        run.tell({"schema": 99})
    with pytest.raises(ValueError, match=r"pip install -U hesscope"):
        hs.load(tmp_path / "new")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="cannot write to"):
        store.RunFolder(tmp_path / "file" / "run")


def test_a_folder_that_cannot_be_written_to_is_read(tmp_path: Path) -> None:
    with store.RunFolder(tmp_path / "run") as run:
        run.add(0, {"loss": 2.0})
    (tmp_path / "run").chmod(0o500)
    try:
        assert hs.load(tmp_path / "run")["loss"].last == 2.0
    finally:
        (tmp_path / "run").chmod(0o700)

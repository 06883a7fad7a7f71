"""Commands under torchrun: the numbers of one process, told by one of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hesscope.cli.commands import main

JOB = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.linspace(-1, 1, 120, dtype=torch.float64).sin().reshape(30, 4)
    return net, nn.CrossEntropyLoss(), (x, torch.arange(30) % 3)

def slow():
    import time
    net, loss, data = make()
    def late(outputs, targets):
        time.sleep(0.02)
        return loss(outputs, targets)
    return net, late, data

def bad():
    import os
    net, loss, (x, y) = make()
    return net, loss, (x if os.environ.get("RANK") == "0" else x * 2, y)
"""
TOGETHER = ("-m", "torch.distributed.run", "--nproc-per-node", "2")


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    (folder / "job.py").write_text(JOB)
    line = [sys.executable, *TOGETHER, "-m", "hesscope", *command]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "1"}
    return subprocess.run(
        line, cwd=folder, env=settings, capture_output=True, text=True, timeout=120, check=False
    )


def test_two_processes_print_and_save_once_what_one_finds(tmp_path, monkeypatch, capsys):
    command = (
        "diagnose",
        "job.py:make",
        "--lr",
        "0.1",
        "--effort",
        "quick",
        "--seed",
        "0",
        "--json",
    )
    two = run(tmp_path, *command, "--save", "two")
    monkeypatch.chdir(tmp_path)
    main([*command])
    alone = capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} >= {"job.py", "two"}
    found, expected = map(json.loads, (two.stdout, alone))
    assert len(two.stdout.splitlines()) == 1
    for name in ("loss", "gradient_noise", "step", "descent"):
        _assert_alike(*(made["measurements"]["values"][name] for made in (found, expected)))
    told = {verdict["key"]: verdict["claim"] for verdict in expected["verdicts"]}
    for verdict in found["verdicts"]:  # some need to see the examples, which are elsewhere
        assert verdict["claim"] == told[verdict["key"]]
    assert len(found["verdicts"]) >= 8


def _assert_alike(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            _assert_alike(found[key], value)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.slow
def test_data_that_differs_ends_both_with_a_sentence(tmp_path):
    done = run(tmp_path, "spectrum", "job.py:bad", "--k", "2", "--seed", "0")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "process 1 has another batch 0 than the others" in done.stderr


@pytest.mark.slow
def test_checkpoints_are_shared_out_and_told_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "ck").mkdir()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    for step in range(1, 5):
        torch.save(
            {name: step * t for name, t in net.state_dict().items()}, tmp_path / f"ck/{step}.pt"
        )
    command = ("spectrum", "job.py:make", "--k", "2", "--checkpoints", "ck", "--json", "--save")
    done = run(tmp_path, *command, "two")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    monkeypatch.chdir(tmp_path)
    assert main([*command, "one"]) == 0
    two, one = (json.loads(text)["series"] for text in (done.stdout, capsys.readouterr().out))
    assert two == one
    assert one["overlap"]["steps"] == [2, 3, 4]
    kept = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert kept[0] == kept[1]


def begun(folder: Path) -> list[subprocess.Popen[str]]:
    """Two processes as torchrun starts them, in the midst of a measurement that is kept."""
    (folder / "job.py").write_text(JOB)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["spectrum", "job.py:slow", "--k", "4", "--seed", "0", "--resume", "state"]
    processes = []
    for rank in "01":
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "hesscope", *command, "--patience", "5"],
                cwd=folder,
                env={**os.environ, **place, **meeting},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    end = time.monotonic() + 100
    while len(list(folder.glob("state/product-*"))) < 5 and time.monotonic() < end:
        time.sleep(0.02)
    return processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "statuses", "who"),
    [
        ({0: signal.SIGTERM, 1: signal.SIGTERM}, {0: 143, 1: 143}, None),
        ({1: signal.SIGTERM}, {0: 2, 1: 143}, 1),
        ({0: signal.SIGTERM}, {0: 143, 1: 2}, 0),
        ({1: signal.SIGKILL}, {0: 2, 1: -9}, 1),
        ({1: signal.SIGSTOP}, {0: 2}, 1),
    ],
    ids=["all terminated", "one terminated", "the first terminated", "one dead", "one stuck"],
)
def test_whoever_is_left_keeps_what_is_there_and_names_who_is_not(tmp_path, signals, statuses, who):
    processes = begun(tmp_path)
    for rank, number in signals.items():
        processes[rank].send_signal(number)
    said = {rank: processes[rank].communicate(timeout=100)[1] for rank in statuses}
    assert {rank: processes[rank].returncode for rank in statuses} == statuses
    for process in processes:
        process.kill()
        process.communicate()
    assert "kept to go on from: state" in said[0]
    assert len(list(tmp_path.glob("state/product-*"))) >= 5
    for rank, text in said.items():
        if who not in (None, rank):
            assert f"hesscope spectrum: process {who} d" in text  # did not come, or died

"""Commands under torchrun: the numbers of one process, told by one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hesscope.cli.commands import main

JOB = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.linspace(-1, 1, 120, dtype=torch.float64).sin().reshape(30, 4)
    return net, nn.CrossEntropyLoss(), (x, torch.arange(30) % 3)

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

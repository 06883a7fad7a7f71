"""`hesscope postmortem` on checkpoints and on the folder of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import hesscope as hs
from hesscope.cli import main

TARGET = """
import torch, hesscope as hs
from torch import nn

def make_problem():
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    return hs.Problem(model, nn.functional.cross_entropy, (x, (x[:, 0] > 0).long()))
"""
JUMP, STEPS = 20, 26


@pytest.fixture
def spiked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training whose lr jumps: weights and states of some steps, both in one file and apart."""
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    y, optimizer = (x[:, 0] > 0).long(), torch.optim.SGD(model.parameters(), lr=0.5)
    for name in ("weights", "states", "both"):
        (tmp_path / name).mkdir()
    for step in range(STEPS):
        if step == JUMP:
            optimizer.param_groups[0]["lr"] = 100.0
        if step % 3 == 2:
            weights, state = model.state_dict(), optimizer.state_dict()
            torch.save(weights, tmp_path / f"weights/step-{step}.pt")
            torch.save(state, tmp_path / f"states/step-{step}.pt")
            torch.save({"model": weights, "optimizer": state}, tmp_path / f"both/step-{step}.pt")
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.save((x[:8], y[:8]), tmp_path / "batch.pt")
    (tmp_path / "t.py").write_text(TARGET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["weights", "t.py:make_problem", "--optimizer", "states"],
        ["weights/*.pt", "t.py:make_problem", "--optimizer", "states/*.pt", "--batch", "batch.pt"],
        ["both", "t.py:make_problem", "--optimizer", "same", "--save", "found"],
    ],
)
def test_the_cause_of_a_spike_is_printed_and_the_status_is_1(arguments, spiked, capsys):
    assert main(["postmortem", *arguments]) == 1
    said = capsys.readouterr().out
    assert f"the loss rises from step {JUMP + 3} on" in said
    assert "the learning rate is too large for the curvature" in said
    if "--save" in arguments:
        assert hs.load(spiked / "found").cause == "lr_too_high"


def test_a_run_folder_is_judged_without_a_target(spiked, capsys):
    given = ["weights", "t.py:make_problem", "--optimizer", "states", "--to", "run", "--json"]
    assert main(["postmortem", *given]) == 1
    onset = json.loads(capsys.readouterr().out)["onset"]
    assert main(["postmortem", "run", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["onset"] == onset == JUMP + 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["weights"], "no folder of a run"),
        (["nowhere", "t.py:make_problem"], "nowhere is no file"),
        (["weights", "t.py:make_problem", "--optimizer", "none*"], "none* is no file"),
        (["weights", "t.py:make_problem", "--batch", "t.py"], "t.py"),
    ],
)
def test_what_is_not_there_exits_with_2(arguments, message, spiked, capsys):
    assert main(["postmortem", *arguments]) == 2
    assert message in capsys.readouterr().err

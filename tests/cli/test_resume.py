"""`hesscope spectrum --resume`: killed at any product, it ends at the numbers of a whole run."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import runpy
import signal
import sys

import pytest
import torch

import hesscope as hs
from hesscope.cli import main
from hesscope.system import interrupts

TARGET = """
import os, signal, torch, hesscope as hs
from torch import nn

passes = 0

def loss(out, labels):
    global passes
    passes += 1
    if passes == int(os.environ.get("DIES_AT", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    return nn.functional.cross_entropy(out, labels)

def problem(seed=0, shift=0.0, loss=loss):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    # a batch above the cache: its graph is not kept, and every product runs the loss
    inputs = torch.linspace(-1, 1, 240).reshape(60, 4).sin() + shift
    return hs.Problem(model, loss, (inputs, torch.arange(60) % 3), cache_bytes=0)

def other_weights():
    return problem(seed=1)

def other_data():
    return problem(shift=0.1)

def other_loss():
    smooth = nn.CrossEntropyLoss(label_smoothing=0.2)
    return problem(loss=smooth)
"""
ASKED = ["--k", "4", "--outliers", "--seed", "3", "--json"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "resumed.py").write_text(TARGET)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("resumed", None)


def in_a_child(*arguments: str, dies_at: int = 0) -> int:
    """The status of a process that runs the command, which writes into `out` and `err`."""
    child = os.fork()
    if child == 0:
        os.environ["DIES_AT"] = str(dies_at)
        for name, stream in (("out", 1), ("err", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        status = main(arguments)
        sys.stdout.flush()
        os._exit(status)
    return os.waitpid(child, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a child of its own")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_killed_spectrum_ends_at_the_numbers_of_a_whole_one(folder):
    assert in_a_child("spectrum", "resumed.py:problem", *ASKED) == 0
    expected = json.loads((folder / "out").read_text())
    command = ["spectrum", "resumed.py:problem", *ASKED, "--resume", "state"]
    assert in_a_child(*command, dies_at=10) == signal.SIGKILL
    assert (folder / "err").read_text().startswith("keeping products in state: 524 bytes for each,")
    known = len(list((folder / "state").glob("product-*")))
    assert in_a_child(*command, dies_at=12) == signal.SIGKILL
    assert (folder / "err").read_text().startswith(f"going on from {known} products in state")
    assert len(list((folder / "state").glob("product-*"))) > known > 1
    assert in_a_child(*command) == 0
    assert json.loads((folder / "out").read_text()) == expected
    assert not (folder / "state").exists()


def test_what_is_another_run_is_refused_by_name(folder, capsys):
    short = ["--k", "2", "--max-matvecs", "6", "--resume", "state"]
    assert main(["spectrum", "resumed.py:problem", "--seed", "3", *short]) == 1
    assert "kept to go on from: state\n" in capsys.readouterr().err
    for target, options, message in (
        (
            "problem",
            ["--seed", "4"],
            "state keeps a run with seed 3, not 4. Leave the seed out to g",
        ),
        ("other_weights", [], "state keeps products of something else: the weights differ. Go on"),
        ("other_data", [], "state keeps products of something else: the data differ. Go on as"),
        ("other_loss", [], "state keeps products of another problem: weights and data are the"),
    ):
        assert main(["spectrum", f"resumed.py:{target}", *options, *short]) == 2
        assert f"hesscope spectrum: {message}" in capsys.readouterr().err
    assert main(["spectrum", "resumed.py:problem", "--k", "2", "--resume", "state", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("going on from 6 products in state\n")
    whole = ["spectrum", "resumed.py:problem", "--k", "2", "--seed", "3", "--json"]
    assert main(whole) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(captured.out)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a child of its own")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_killed_look_ends_at_the_verdicts_of_a_whole_one(folder):
    asked = ["diagnose", "resumed.py:problem", "--lr", "0.1", "--seed", "3", "--json"]
    quick = ["--effort", "quick"]
    assert in_a_child(*asked, *quick) >> 8 == 1  # nothing is learnt yet
    expected = json.loads((folder / "out").read_text())
    resumed = [*asked, *quick, "--resume", "state"]
    assert in_a_child(*resumed, dies_at=115) == signal.SIGKILL
    known = len(list((folder / "state").glob("product-*")))
    assert known > 1
    assert in_a_child(*resumed) >> 8 == 1
    told = (folder / "err").read_text()
    assert told.startswith(f"going on from {known} products in state\n")
    found = json.loads((folder / "out").read_text())
    for look in (expected, found):
        del look["measurements"]["seconds"]
        del look["measurements"]["facts"]["provenance"]["created"]
    assert found == expected
    assert not (folder / "state").exists()


def test_a_look_in_python_goes_on_with_the_seed_that_it_drew(folder, monkeypatch):
    made = runpy.run_path("resumed.py")["problem"]
    seeds = itertools.count(11)
    monkeypatch.setattr("hesscope.probes.fresh_seed", lambda: next(seeds))
    options = {"lr": 0.1, "effort": "quick", "check": False}
    first = hs.diagnose(made(), **options, scratch="state")
    again = hs.diagnose(made(), **options, scratch="state")
    assert (first.measurements.seed, again.measurements.seed) == (11, 11)
    assert again.verdict("outliers") == first.verdict("outliers")
    whole = hs.diagnose(made(), **options, seed=11)
    assert [str(v) for v in whole.verdicts] == [str(v) for v in again.verdicts]
    with pytest.raises(ValueError, match=r"state keeps a run with seeds that it drew itself, not"):
        hs.diagnose(made(), **options, seed=12, scratch="state")


def test_an_interrupt_keeps_what_is_paid_for(folder, capsys, monkeypatch):
    asked = hs.eigsh

    def interrupted(H, **options):
        with contextlib.suppress(KeyboardInterrupt):
            asked(H, **options)
            raise KeyboardInterrupt
        interrupts.note()
        return asked(H, **{**options, "max_matvecs": 12})

    monkeypatch.setattr(hs, "eigsh", interrupted)
    assert main(["spectrum", "resumed.py:problem", "--k", "2", "--resume", "state"]) == 130
    assert "kept to go on from: state" in capsys.readouterr().err
    assert list((folder / "state").glob("product-*"))


@pytest.mark.usefixtures("folder")
def test_all_eigenvalues_go_on_from_their_matrix_under_either_name(capsys):
    for option in ("--resume", "--scratch"):
        assert main(["spectrum", "resumed.py:problem", "--exact", option, "state"]) == 0
        assert "exact spectrum of 131 eigenvalues" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["spectrum", "resumed.py:problem", "--scratch", "a", "--resume", "b"])
    assert "not allowed with argument" in capsys.readouterr().err
    series = ["--checkpoints", "x.pt", "--resume", "state"]
    assert main(["spectrum", "resumed.py:problem", *series]) == 2
    assert "--resume is about one spectrum" in capsys.readouterr().err


def test_a_run_goes_on_with_as_many_threads_as_it_was_begun_with(folder, capsys):
    H = hs.Hessian(runpy.run_path("resumed.py")["problem"]())
    own = torch.get_num_threads()
    torch.set_num_threads(own + 1)
    try:
        hs.as_operator(H, scratch="state").seed_of_run(3)
    finally:
        torch.set_num_threads(own)
    assert main(["spectrum", "resumed.py:problem", "--k", "2", "--resume", "state"]) == 0
    said = f"as many threads as when state was begun: {own + 1}, not {own}\n"
    assert capsys.readouterr().err.startswith(said)
    assert torch.get_num_threads() == own
    assert not (folder / "state").exists()

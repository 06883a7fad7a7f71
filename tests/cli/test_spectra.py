"""`hesscope spectrum --checkpoints`: over a series, kept and resumed by --save."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import hesscope as hs
from hesscope.cli import main
from hesscope.cli.checkpoint_files import checkpoint_files

TARGET = """
import torch, hesscope as hs
from torch import nn

def make_problem():
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    return hs.Problem(model, nn.functional.cross_entropy, (x, (x[:, 0] > 0).long()))
"""


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Checkpoints of steps 5, 10 and 15 with more in them than weights."""
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    (tmp_path / "ck").mkdir()
    for step in range(16):
        if step in (5, 10, 15):
            content = {"model": model.state_dict(), "step": step}
            torch.save(content, tmp_path / f"ck/step-{step}.pt")
        optimizer.zero_grad()
        cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
        optimizer.step()
    (tmp_path / "t.py").write_text(TARGET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_series_is_told_saved_and_goes_on(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["spectrum", "t.py:make_problem", "--k", "2", "--save", "kept", "--checkpoints"]
    assert main([*asked, "ck/step-5.pt", "ck/step-10.pt"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("2 checkpoints, 2 eigenvalues each")
    assert [line.split()[0] for line in told[1:3]] == ["5", "10"]
    assert told[-1] == "saved: kept"
    assert main([*asked, "ck/*.pt", "--json", "--report", "page.html"]) == 0
    told_all = json.loads(capsys.readouterr().out)
    assert told_all["series"]["overlap"]["steps"] == [10, 15]
    history = hs.load(trained / "kept")
    assert history["lambda_1"].steps.tolist() == [5, 10, 15]
    page = (trained / "page.html").read_text()
    assert "Overlap with the checkpoint before" in page
    assert "Spectrum over training" in page
    assert main(["show", "kept"]) == 0
    assert "3 checkpoints, 2 eigenvalues each" in capsys.readouterr().out
    ax = hs.plots.eigenvalues_over_checkpoints(history)
    assert len(ax.lines) == 2
    assert [text.get_text()[:2] for text in ax.texts] == ["0.", "0."]
    with pytest.raises(ValueError, match="no spectra of checkpoints"):
        hs.plots.eigenvalues_over_checkpoints(hs.History.of({"loss": {0: 1.0}}))


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        (["ck/*.pt", "--exact"], 2, "--exact is about one spectrum"),
        (["nowhere/*.pt"], 2, "nowhere/*.pt is no file, pattern or folder"),
        (["t.py"], 2, "t.py"),
        (["ck", "--max-matvecs", "3"], 1, ""),
    ],
)
def test_what_cannot_be_measured(
    more: list[str], status: int, words: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["spectrum", "t.py:make_problem", "--k", "2", "--checkpoints", *more]) == status
    assert words in capsys.readouterr().err


def test_a_checkpoint_that_is_damaged_is_told_and_the_status_is_1(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained / "ck/step-10.pt").write_bytes(b"nothing")
    assert main(["spectrum", "t.py:make_problem", "--k", "2", "--checkpoints", "ck"]) == 1
    assert "step 10: not measured: ck/step-10.pt" in capsys.readouterr().out


def test_a_folder_of_several_files_stands_for_its_model(tmp_path: Path) -> None:
    for step in (100, 20):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"):
            (folder / name).touch()
    found = checkpoint_files([str(tmp_path / "checkpoint-*")])
    assert {path.name for path in found} == {"model.safetensors"}
    assert len(found) == 2

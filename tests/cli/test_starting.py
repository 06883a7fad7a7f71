"""`hesscope init`: targets that run at once where a script shows all, and say what is missing."""

from __future__ import annotations

import ast
import json

import pytest

from hesscope.cli import main

SCRIPT = '''"""Trains."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import torch.nn.functional as F

WIDTH = 7

class {name}(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.l, self.o = nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, x):
        return self.o(self.l(x).tanh())

def examples(num):
    return torch.randn(num, 3), torch.randint(2, (num,))

def train():
    data = TensorDataset(*examples(50))
    loader = DataLoader(data, batch_size=10, shuffle=True)
    net = {name}(width=WIDTH)
    for x, y in loader:
        F.cross_entropy(net(x), y).backward()

{run}
'''
GUARD = 'if __name__ == "__main__":\n    train()'


def began(tmp_path, monkeypatch, text, name="script_of_a_user.py"):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    return main(["init", name])


def test_a_script_that_shows_all_gives_a_target_that_runs(tmp_path, monkeypatch, capsys):
    assert began(tmp_path, monkeypatch, SCRIPT.format(name="Net", run=GUARD)) == 0
    told = capsys.readouterr().out
    assert "model Net(width=WIDTH), loss F.cross_entropy" in told
    assert "careful" not in told
    assert "to be set" not in told
    assert main(["check", "hesscope_target.py:make_problem"]) == 0


def test_a_script_that_trains_when_it_is_imported_is_told(tmp_path, monkeypatch, capsys):
    assert began(tmp_path, monkeypatch, SCRIPT.format(name="Net", run="train()")) == 0
    assert "careful: importing script_of_a_user.py runs" in capsys.readouterr().out


def test_what_a_script_does_not_show_is_named(tmp_path, monkeypatch, capsys):
    text = "import torch\ndef train(net, loader, weight):\n    torch.nn.NLLLoss(weight=weight)\n"
    assert began(tmp_path, monkeypatch, text) == 0
    assert "to be set by you: model, weight, loader" in capsys.readouterr().out
    written = (tmp_path / "hesscope_target.py").read_text()
    ast.parse(written)
    assert "weight = ...  # as script_of_a_user.py sets it" in written


def test_values_that_need_each_other_end(tmp_path, monkeypatch):
    text = "from torch.utils.data import DataLoader\na = b\nb = a\nDataLoader(a)\n"
    assert began(tmp_path, monkeypatch, text) == 0
    ast.parse((tmp_path / "hesscope_target.py").read_text())


def test_without_a_source_the_target_runs_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--to", "begin.py"]) == 0
    assert main(["check", "begin.py:make_problem"]) == 0


@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "BertForSequenceClassification"])
def test_a_model_folder_gives_its_class(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({"architectures": [kind]}))
    assert main(["init", "model"]) == 0
    assert f"model: {kind}" in capsys.readouterr().out
    written = (tmp_path / "hesscope_target.py").read_text()
    ast.parse(written)
    assert f"{kind}.from_pretrained(FOLDER)" in written
    assert ("masked_fill" in written) == ("LMHead" in kind)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["nothing.py"], "No such file"),
        (["."], "no folder of a transformers model"),
        (["broken.py"], "as Python"),
        (["of-two-words.py"], "rename it"),
        (["--to", "target.txt"], "the name of a Python file"),
        (["--to", 'a"b.py'], "the name of a Python file"),
        (["--to", "nowhere/target.py"], "No such file"),
        (["--to", "there.py"], "is there already"),
    ],
)
def test_what_cannot_begin_is_told(tmp_path, monkeypatch, capsys, arguments, match):
    monkeypatch.chdir(tmp_path)
    for name, text in (("broken.py", "def"), ("of-two-words.py", ""), ("there.py", "kept")):
        (tmp_path / name).write_text(text)
    assert main(["init", *arguments]) == 2
    assert match in capsys.readouterr().err
    assert (tmp_path / "there.py").read_text() == "kept"
    assert not (tmp_path / "hesscope_target.py").exists()


def test_a_hostile_config_is_not_written_into_a_target(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = {"architectures": ["A\nimport os"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["init", "."]) == 2
    assert "names no architecture" in capsys.readouterr().err

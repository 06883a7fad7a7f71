"""The scripts of examples/: short, each by itself, and each shows what it says it does."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
LONGEST = 39  # lines, blank ones and the docstring too
NEEDS = {
    "hf_trainer": "accelerate",
    "lightning_module": "pytorch_lightning",
    "slurm_sweep": "submitit",
}
GIVEN = {
    "large_model": "60",  # the width of its layers: 25 million take minutes
    "slurm_sweep": "debug",  # in this process
}

# What each has to say, as regular expressions: its diagnosis, and that the cure helped.
SAID = {
    "diverging_cnn": (
        r"lr 3: loss 2\.\d+ -> (nan|[2-9]|\d\d)",
        r"most likely cause: lr 3 is too large: this step climbs",
        r"SGD: try lr 0\.0\d+, limited by",
        r"lr 0\.0\d+: loss 2\.\d+ -> [01]\.",
    ),
    "gpt_without_warmup": (
        r"most likely cause: lr 0\.2 is too large: this step climbs",
        r"20 steps of warm-up: loss 1\.\d+ at step 49",
    ),
    "lstm_at_a_plateau": (
        r"step 60: loss 0\.16",
        r"in short: nothing yet: the loss is at chance level",
        r"speaks for it: +through time: vanishing through time: in layer \"lstm\"",
        r"what to do next: .*an LSTM or GRU with forget bias 1",
    ),
    "pinn": (
        r"200 steps of gradient descent: 0\.4",
        r"conditioning +slow directions need between [\d,]+ and .* steps of gradient descent",
        r"20 steps of Newton's method after them: 0\.00",
    ),
    "hf_trainer": (r"no warm-up: lr was 0\.9\d+ from the start, .* and the loss rose",),
    "lightning_module": (r"edge of stability was at the edge of stability from step 0",),
    "two_checkpoints": (r"large batches +small batches", r"λmax +1\.\d+ .* 1\.\d+ .* ↓\n"),
    "layer_figure": (r"layer 4: n = 330, λmax = 10", r"exact, \d+ matvecs", r"written: layers.pdf"),
    "large_model": (
        r"n = \d+",
        r"quick: at most \d+ matvecs, .* for \d+ parameters",
        r"1 eigenpairs \(LA\), 8 matvecs\n +1 +0\.\S+ ± \S+ +not converged",
        r"1 eigenpairs \(LA\), \d\d matvecs\n +1 +0\.\S+ ± \S+\n",
    ),
    "slurm_sweep": (r"λmax of 4 seeds:( \d\.\d{3}){4}\n",),
    "digits": (r"minimum\?",),
}
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


def test_there_is_a_script_for_each_expectation():
    assert sorted(SAID) == SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_read_at_a_glance(name):
    text = (FOLDER / f"{name}.py").read_text("utf-8")
    assert text.startswith('"""')
    assert len(text.splitlines()) <= LONGEST


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.filterwarnings("ignore:unclosed file .*DEBUG_:ResourceWarning")  # of submitit's own
@pytest.mark.filterwarnings("default")
def test_a_script_shows_what_it_says(name, tmp_path, monkeypatch, capsys):
    needed = NEEDS.get(name)
    if needed and importlib.util.find_spec(needed) is None:
        where = "pip install 'hesscope[slurm]'" if needed == "submitit" else "`make test-trainers`"
        pytest.skip(f"{needed} is not installed: {where}")
    monkeypatch.chdir(tmp_path)
    given = [GIVEN[name]] if name in GIVEN else []
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *given])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    for pattern in SAID[name]:
        assert re.search(pattern, out), f"{pattern}\nis not in\n{out}"

"""The command line as a stranger types it: results, exit status, errors that name the cure."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from hesscope.cli import main

TRAIN = """
import torch, hesscope as hs
from torch import nn
F = nn.functional

def make_problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return hs.Problem(model, F.cross_entropy, (torch.randn(40, 4), torch.arange(40) % 3))

def summed():
    problem = make_problem()
    return hs.Problem(problem.model, nn.CrossEntropyLoss(reduction="sum"), problem.batches.source)

def saddle():
    return hs.Problem.from_function(lambda t: t[0] ** 2 - t[1] ** 2, torch.zeros(2))

class SlowData:
    passes = 0

    def __iter__(self):
        import sys, time
        self.passes += 1
        time.sleep(0.01 if self.passes < 100 else 0.1)  # slow where it is interrupted
        print("pass", file=sys.stderr, flush=True)
        yield torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3

def slow():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 3))
    return hs.Problem(model, F.cross_entropy, SlowData(), cache_bytes=0)

def learnt():
    model, inputs = make_problem().model, torch.randn(40, 4)
    with torch.no_grad():
        model[2].weight *= 5
        labels = model(inputs).argmax(1)
    return hs.Problem(model, F.cross_entropy, (inputs, labels))

def triple():
    problem = make_problem()
    return problem.model, F.cross_entropy, problem.batches.source

class Own(nn.Linear):
    def forward(self, x, labels):
        return {"loss": F.cross_entropy(super().forward(x), labels)}

def own():
    torch.manual_seed(0)
    return Own(4, 3), [{"x": torch.randn(9, 4), "labels": torch.arange(9) % 3}]

def number():
    return 3

def broken():
    raise KeyError("no such column")

LABELS = [0, 1]
problem = make_problem()

def needs(config, lr=0.1):
    return make_problem()

def empty():
    return hs.Problem(nn.Linear(4, 3), F.cross_entropy, [])
"""


@pytest.fixture
def train(tmp_path, monkeypatch):
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    (folder / "typo.py").write_text("def f(:\n")
    (folder / "nothing.py").write_text("print('training')\n")
    monkeypatch.chdir(folder)
    yield folder / "train.py"
    sys.modules.pop("train", None)


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["check", "train.py:make_problem"], 0, "check: ok"),
        (["check", "train.py:summed"], 1, "FAULT sum_reduction"),
        (["check", "train.py:triple"], 0, "check: ok"),
        (["check", "train.py:own"], 0, "note  inferred: loss: the model's own, of x, labels"),
        (["diagnose", "train.py:make_problem", "--lr", "0.1"], 1, "at chance level"),
        (["diagnose", "train.py:learnt", "--lr", "0.1"], 0, "lr 0.1 is safe at this point"),
        (
            ["diagnose", "train.py:learnt", "--lr", "0.1", "--held-out", "train.py:make_problem"],
            0,
            "memorised?     in part",
        ),
        (["diagnose", "train.py:saddle"], 1, "a strict saddle"),
        (["spectrum", "train.py:make_problem", "--k", "3"], 0, "3 eigenpairs (LA)"),
        (["spectrum", "train.py:saddle", "--which", "SA", "--k", "1"], 0, "-2"),
        (["spectrum", "train.py:make_problem", "--exact"], 0, "exact spectrum of 43 eigenvalues"),
        (["spectrum", "train.py:make_problem", "--max-matvecs", "4"], 1, "not converged"),
        (["spectrum", "train:saddle", "--k", "1"], 0, "1 eigenpairs"),
        (
            ["slice", "train.py:make_problem", "--points", "3"],
            0,
            "loss on 3 x 3 points along filter",
        ),
        (["slice", "train.py:saddle", "--eigen", "1", "--points", "3"], 0, "eigenvector 1 (λ = 2)"),
        (["slice", "train.py:make_problem", "--gradient", "--points", "3"], 0, "along gradient"),
    ],
)
@pytest.mark.usefixtures("train")
def test_commands_print_their_result_and_exit_with_its_meaning(arguments, status, expected, capsys):
    assert main(arguments) == status
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "train.py"], "target 'train.py' is not FILE.py:FUNCTION or MODULE:FUNCTION."),
        (["check", "absent.py:f"], "there is no file absent.py (looked from "),
        (["check", "absent.module:f"], "absent.module cannot be imported: ModuleNotFoundError"),
        (
            ["check", "train.py:absent"],
            "train.py has no function 'absent'; it defines make_problem",
        ),
        (
            ["check", "train.py:number"],
            "train.py:number returns a int; it has to return a hesscope",
        ),
        (["check", "train.py:broken"], "train.py:broken raises KeyError: 'no such column' ("),
        (["diagnose", "train.py:make_problem", "--lr", "-1"], "lr=-1.0 is not a learning rate"),
        (["spectrum", "train.py:make_problem", "--k", "0"], "k=0 eigenpairs"),
        (
            ["check", "train.py:make_problem", "--weights", "no.pt"],
            "there is no weights file no.pt",
        ),
        (
            ["diagnose", "train.py:make_problem", "--save", "train.py/run"],
            "--save: cannot write to",
        ),
        (
            ["spectrum", "train.py:make_problem", "--report", "train.py/page.html"],
            "--report: cannot write to",
        ),
        (["spectrum", "train.py:make_problem", "--report", "."], "--report . is a folder; give"),
        (
            ["diagnose", "train.py:make_problem", "--batch-size", "0"],
            "batch_size=0 is no number of examples; give that of your training batches.",
        ),
        (
            ["diagnose", "train.py:make_problem", "--batch-size", "-3"],
            "batch_size=-3 is no number of examples",
        ),
        (
            ["diagnose", "train.py:make_problem", "--max-matvecs", "-3"],
            "max_matvecs=-3 is too little",
        ),
        (["show", "nowhere"], "nowhere holds no record.json; give a folder that"),
        (
            ["check", "train.py"],
            "target 'train.py' is not FILE.py:FUNCTION or MODULE:FUNCTION. Nam",
        ),
        (["check", "make_problem:train.py"], "target 'make_problem:train.py' has its parts in the"),
        (["check", ".:make_problem"], ". is a folder; give a file in it, such as train.py:make_pr"),
        (["check", "train.py:make_problems"], "train.py has no function 'make_problems'; it defin"),
        (
            ["check", "train.py:needs"],
            "train.py:needs needs config, and a target is called without",
        ),
        (["check", "train.py:LABELS"], "LABELS of train.py is a list; a target is a function that"),
        (["check", "nothing.py:f"], "nothing.py has no function 'f', and defines none; `hesscope "),
        (
            ["check", "typo.py:f"],
            "typo.py cannot be imported: SyntaxError: invalid syntax (line 1).",
        ),
        (["diagnose", "train.py:learnt", "--report", "a.pdf"], "--report a.pdf: a page is HTML;"),
        (
            ["spectrum", "train.py:learnt", "--k", "44"],
            "k=44 eigenpairs of an operator of size n=43",
        ),
        (
            ["spectrum", "train.py:learnt", "--exact", "--k", "3", "--trace"],
            "--exact gives all eig",
        ),
        (
            ["spectrum", "train.py:learnt", "--outliers", "--which", "SA"],
            "--outliers are counted f",
        ),
        (
            ["spectrum", "train.py:learnt", "--outliers", "--k", "1"],
            "--outliers look at gaps, and ",
        ),
        (
            ["spectrum", "train.py:learnt", "--max-matvecs", "0"],
            "--max-matvecs 0 leaves nothing to",
        ),
        (["spectrum", "train.py:learnt", "--resume", "train.py"], "--resume: cannot write to"),
        (["slice", "train.py:learnt", "--match"], "--match permutes units before a path; add --pa"),
        (
            ["slice", "train.py:learnt", "--log"],
            "--log is about the figure; add --figure FILE.png.",
        ),
        (["slice", "train.py:learnt", "--figure", "."], "--figure . is a folder; give the name of"),
        (["report", ".", "--to", "train.py/page.html"], "--to: cannot write to"),
        (["postmortem", ".", "--to", "train.py/x"], "--to: cannot write to"),
        (["init", "absent.py"], "absent.py: No such file or folder (looked from "),
        (
            ["init", "typo.py"],
            "cannot read typo.py as Python: invalid syntax in line 1. Give a tra",
        ),
    ],
)
@pytest.mark.usefixtures("train")
def test_what_cannot_run_exits_with_2_and_says_why(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"hesscope {arguments[0]}: {message}")
    assert captured.out in ("", "training\n")
    assert captured.err.count("\n") == 1


@pytest.mark.usefixtures("train")
def test_a_problem_that_is_there_already_is_a_target(capsys):
    assert main(["spectrum", "train.py:problem", "--k", "1"]) == 0
    assert "1 eigenpairs" in capsys.readouterr().out


@pytest.mark.usefixtures("train")
def test_the_place_of_an_error_is_a_line_of_the_users(train, capsys):
    assert main(["check", "train.py:empty"]) == 2
    line = (
        TRAIN.split("\n").index("    return hs.Problem(nn.Linear(4, 3), F.cross_entropy, [])") + 1
    )
    assert capsys.readouterr().err.rstrip().endswith(f"train.py, line {line}).")


@pytest.mark.usefixtures("train")
def test_outliers_ask_for_as_many_eigenvalues_as_they_need(capsys):
    assert main(["spectrum", "train.py:learnt", "--outliers", "--seed", "0"]) in (0, 1)
    assert "eigenvalues: 10 eigenpairs (LA)" in capsys.readouterr().out  # 6 for 3 classes, 10 usual
    assert main(["spectrum", "train.py:learnt", "--outliers", "--which", "BE", "--seed", "0"]) < 2
    assert "eigenvalues: 20 eigenpairs (BE)" in capsys.readouterr().out
    assert main(["spectrum", "train.py:learnt", "--exact", "--outliers"]) == 0
    assert "outliers: " in capsys.readouterr().out


@pytest.mark.usefixtures("train")
def test_a_terminal_of_80_columns_reads_whole_lines(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    main(["diagnose", "train.py:learnt", "--lr", "0.1", "--seed", "0"])
    wide = capsys.readouterr().out
    assert max(map(len, wide.splitlines())) <= 80
    assert re.search(r"\n {15}\S", wide)
    assert " =\n" not in wide
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    main(["diagnose", "train.py:learnt", "--lr", "0.1", "--seed", "0"])
    piped = capsys.readouterr().out
    assert max(map(len, piped.splitlines())) > 200
    assert untimed(wide) == untimed(piped)


def untimed(text):
    """The words, without the seconds that it took."""
    return re.sub(r"[\d.]+ s,", "", " ".join(text.split())).split()


@pytest.mark.parametrize("arguments", [[], ["dance"], ["spectrum", "t:f", "--which", "XX"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: hesscope" in capsys.readouterr().err


@pytest.mark.usefixtures("train")
def test_json_goes_alone_to_standard_output(capsys):
    arguments = ["spectrum", "train.py:make_problem", "--k", "2", "--json", "--save", "out put"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["eigenvalues"]) == 2
    assert captured.err == "saved: out put\n"


def test_density_trace_and_outliers_are_measured_and_written_to_the_page(train, capsys, tmp_path):
    page, folder = tmp_path / "page.html", tmp_path / "run"
    options = ["--k", "4", "--density", "--trace", "--outliers", "--report", str(page)]
    assert main(["spectrum", f"{train}:make_problem", *options, "--save", str(folder)]) == 0
    out = capsys.readouterr().out
    names = ["eigenvalues", "density", "condition", "trace", "Frobenius norm", "outliers"]
    assert [out.index(f"{name}: ") for name in names] == sorted(
        out.index(f"{name}: ") for name in names
    )
    assert "gap ratios for C = 3 classes" in out
    html = page.read_text("utf-8")
    assert all(f"<h2>{name.capitalize()}" in html for name in names)
    assert main(["show", str(folder)]) == 0
    assert out.split("saved:")[0].strip() in capsys.readouterr().out


@pytest.mark.usefixtures("train")
def test_a_saved_result_is_shown_again_with_its_provenance(capsys):
    main(["diagnose", "train.py:make_problem", "--save", "run", "--report", "page.html"])
    first = capsys.readouterr().out
    assert main(["show", "run", "--report", "again.html"]) == 0
    second = capsys.readouterr().out
    assert second.startswith(first.split("saved:")[0])
    assert "made with hesscope" in second


@pytest.mark.parametrize("kind", ["weights.safetensors", "weights.pt", "nested.pt"])
def test_weights_are_loaded_into_the_model(kind, train, capsys):
    from hesscope.cli.target import load_problem

    model = load_problem("train.py:make_problem").model
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    if kind.endswith("safetensors"):
        save_file(state, kind)
    else:
        torch.save({"state_dict": wrapped} if kind == "nested.pt" else state, kind)
    main(["diagnose", "train.py:make_problem", "--weights", kind, "--json"])
    assert json.loads(capsys.readouterr().out)["measurements"]["values"]["loss"] == pytest.approx(
        1.0986123
    )


def test_a_trajectory_that_is_not_there_is_told(train, capsys):
    assert main(["slice", f"{train}:make_problem", "--trajectory", "nowhere"]) == 2
    assert "--trajectory nowhere: there is no such file or folder" in capsys.readouterr().err


def test_a_slice_between_weights_or_through_them_is_drawn(train, capsys):
    def weights(value):
        names = {"0.weight": (5, 4), "0.bias": (5,), "2.weight": (3, 5), "2.bias": (3,)}
        return {name: torch.full(shape, value) for name, shape in names.items()}

    for i, value in enumerate((0.0, 0.5, 2.0)):
        save_file(weights(value), f"w{i}.safetensors")
    target = [f"{train}:make_problem", "--points", "5"]
    ends = ["--between", "w0.safetensors", "w2.safetensors", "--figure", "line.png"]
    assert main(["slice", *target, *ends]) == 0
    out = capsys.readouterr().out
    assert "loss at 5 points of a line of length" in out
    assert "figure: line.png" in out
    assert (train.parent / "line.png").read_bytes().startswith(b"\x89PNG")
    assert main(["slice", *target, *ends[:3], "--path", "--match", "--figure", "path.png"]) == 0
    out = capsys.readouterr().out
    assert "straight line: " in out
    assert "bezier with 1 trained points: " in out
    assert main(["slice", *target, "--path"]) == 2
    assert "add --between A.pt B.pt" in capsys.readouterr().err
    path = ["--trajectory", "w0.safetensors", "w1.safetensors", "--figure", "plane.svg", "--log"]
    assert main(["slice", *target, *path]) == 0
    assert "along trajectory 1 (" in capsys.readouterr().out
    assert "<svg" in (train.parent / "plane.svg").read_text()
    assert main(["slice", *target, "--trajectory", ".", "--figure", "plane.html"]) == 0
    assert '<canvas tabindex="0"' in (train.parent / "plane.html").read_text()
    assert main(["slice", *target, *ends[:3], "--figure", "line.html"]) == 2
    assert "is a page of a plane, and this is a line" in capsys.readouterr().err
    assert main(["slice", *target, "--figure", "plane.bmp"]) == 2
    assert "give a file that ends in .png, .svg, .pdf" in capsys.readouterr().err


def test_weights_that_do_not_fit_or_would_run_code_are_refused(train, capsys):
    torch.save({"0.weight": torch.zeros(1)}, "small.pt")
    torch.save(torch.nn.Linear(1, 1), "module.pt")
    (train.parent / "cut.safetensors").write_bytes(b"12345")
    (train.parent / "cut.pt").write_bytes(b"12345")
    for name, message in (
        (
            "small.pt",
            "does not fit the model: it lacks 0.bias, 2.weight, 2.bias; it has other shap",
        ),
        ("module.pt", "holds more than tensors, and loading it would run code from the file."),
        ("cut.safetensors", "is not a readable safetensors file"),
        ("cut.pt", "holds more than tensors"),
    ):
        assert main(["check", "train.py:make_problem", "--weights", name]) == 2
        assert f"hesscope check: {name} {message}" in capsys.readouterr().err


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "hesscope", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_help_answers_without_importing_torch():
    code = "import sys, hesscope.cli; print('torch' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
    assert "demo" in run("--help").stdout
    assert run("--version").stdout.startswith("hesscope 0.")


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT as a terminal on POSIX does")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("spectrum --k 150", "interrupted: residuals are the recurrence's own estimates"),
        ("diagnose", "interrupted, not all was measured: "),
    ],
)
def test_an_interrupted_command_prints_what_it_has(command, said, train):
    name, *options = command.split()
    command = [sys.executable, "-m", "hesscope", name, "train.py:slow", *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=train.parent,
        # a job in the background of a script inherits that SIGINT is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(110):  # of 171 passes over the data and of 556, most for products
        assert process.stderr.readline() == "pass\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said in out


@pytest.mark.usefixtures("train")
def test_an_output_that_cannot_be_written_is_noticed_before_the_work(capsys, monkeypatch):
    monkeypatch.setattr("hesscope.diagnose", lambda *_, **__: pytest.fail("the work was done"))
    for option in (["--save", "train.py/run"], ["--report", "train.py/page.html"]):
        assert main(["diagnose", "train.py:make_problem", *option]) == 2
        assert "train.py: Not a directory. Choose another place." in capsys.readouterr().err


@pytest.mark.usefixtures("train")
def test_a_missing_package_for_the_page_is_noticed_before_the_work(capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    assert main(["diagnose", "train.py:make_problem", "--report", "page.html"]) == 2
    message = "hesscope diagnose: --report needs matplotlib: pip install 'hesscope[report]'."
    assert capsys.readouterr().err.strip() == message

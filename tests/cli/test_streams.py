"""Exit statuses, standard output and signals: no result is lost, and none is forged."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import hesscope as hs
from hesscope.cli import main
from hesscope.system.locks import Locked

TARGET = """
import atexit, os, subprocess, sys, torch, hesscope as hs
from torch import nn

def problem(loss=nn.functional.mse_loss, names=("a", "b")):
    torch.manual_seed(0)
    model = nn.Sequential()
    for name in names:
        model.add_module(name, nn.Linear(2, 2))
    return hs.Problem(model, loss, (torch.randn(8, 2), torch.randn(8, 2)))

def leaves():
    sys.exit(0)

def leaves_later():
    return problem(lambda *_: sys.exit(0))

class Odd(BaseException): ...

def odd():
    def loss(*_):
        raise Odd("of its own\\nkind")
    return problem(loss)

def chatty():
    print("from Python")
    os.write(1, b"from C\\n")
    subprocess.run(["echo", "from a child"], check=True)
    atexit.register(print, "at the end")
    return problem()

def hostile():
    return problem(names=("\\x1b[2Jred", "x\\ncheck: ok"))

def waits():
    import time
    def loss(out, target):
        time.sleep(0.05)
        print("pass", file=sys.stderr, flush=True)
        return nn.functional.mse_loss(out, target)
    made = problem(loss)
    return hs.Problem(made.model, loss, made.batches.source)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "job.py").write_text(TARGET)
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("job", None)


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "hesscope", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **options)


# --- exit statuses


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("job.py:leaves", "job.py:leaves raises SystemExit: 0 ("),
        ("exits.py:f", "exits.py cannot be imported: SystemExit: 0 ("),
        ("job.py:leaves_later", "the target's code has called sys.exit(0).\n"),
        ("job.py:odd", "Odd: of its own kind ("),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_target_that_leaves_is_not_healthy(target, message, capsys):
    assert main(["spectrum", target, "--k", "1"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"hesscope spectrum: {message}")
    assert (captured.err.count("\n"), captured.out) == (1, "")


def test_a_fault_of_hesscopes_own_is_no_finding(folder, capsys, monkeypatch):
    def fails(*_, **__):
        return {}["none"]

    monkeypatch.setattr(hs, "eigsh", fails)
    assert main(["spectrum", "job.py:problem"]) == 2
    assert capsys.readouterr().err.startswith("hesscope spectrum: KeyError: 'none' (")


@pytest.mark.skipif(os.name == "nt", reason="locks are flock's")
def test_a_second_run_into_one_folder_is_refused_before_the_work(folder, capsys):
    other = Locked(folder / "out")
    other._key = (other._key[0], -1)  # as if in another process
    with other:
        assert main(["spectrum", "job.py:problem", "--save", "out"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"hesscope spectrum: out is in use by process {os.getpid()} on ")


# --- standard output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
@pytest.mark.parametrize("save", [True, False])
def test_a_full_disk_behind_standard_output_loses_nothing(save, folder):
    with open("/dev/full", "w") as full:  # noqa: PTH123  a device
        options = ["--save", "out"] if save else []
        done = run("spectrum", "job.py:problem", "--k", "1", *options, stdout=full)
    assert done.returncode == 2
    start = "hesscope spectrum: cannot write to standard output (No space left on device); the "
    start += "result is in "
    assert done.stderr.startswith(start)
    assert len(hs.load(done.stderr.strip().removeprefix(start).rstrip("."))) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
@pytest.mark.parametrize("stderr", ["full", None])
def test_remarks_that_nobody_reads_stop_nothing(stderr, folder, capsys, monkeypatch):
    options = ["--k", "1", "--json", "--resume", "state", "--save", "out"]
    full = open("/dev/full", "w")  # noqa: PTH123, SIM115  a device
    monkeypatch.setattr(sys, "stderr", full if stderr else None)
    assert main(["spectrum", "job.py:problem", *options]) == 0
    monkeypatch.undo()
    with contextlib.suppress(OSError):
        full.close()
    assert len(json.loads(capsys.readouterr().out)["eigenvalues"]) == 1


def test_a_reader_that_is_gone_loses_nothing(folder):
    reader, writer = os.pipe()
    os.close(reader)
    done = run("spectrum", "job.py:problem", "--k", "1", "--save", "out", stdout=writer)
    os.close(writer)
    assert done.returncode == 0
    assert "Broken pipe" in done.stderr
    assert len(hs.load("out")) == 1


@pytest.mark.slow
def test_no_standard_output_at_all_loses_nothing(folder):
    command = f"'{sys.executable}' -m hesscope spectrum job.py:problem --k 1 --save out >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot write to standard output" in done.stderr
    assert len(hs.load("out")) == 1


def test_json_is_never_mixed_with_what_the_target_prints(folder):
    done = run("spectrum", "job.py:chatty", "--k", "1", "--json", stdout=subprocess.PIPE)
    assert len(json.loads(done.stdout)["eigenvalues"]) == 1
    for line in ("from Python", "from C", "from a child", "at the end"):
        assert f"{line}\n" in done.stderr


def test_a_full_disk_keeps_the_page_that_is_there(folder, capsys, monkeypatch):
    (folder / "page.html").write_text("a good page")
    command = ["spectrum", "job.py:problem", "--k", "1", "--report", "page.html"]

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hesscope.cli.commands.check_outputs", lambda *_: None)
    monkeypatch.setattr(os, "fsync", full)
    assert main(command) == 2
    captured = capsys.readouterr()
    assert "1 eigenpairs" in captured.out  # and is told, for it is nowhere else
    assert "No space left on device" in captured.err
    assert (folder / "page.html").read_text() == "a good page"
    assert {p.name for p in folder.iterdir()} >= {"page.html"}
    assert not list(folder.glob(".page.html*"))


def test_a_full_disk_is_noticed_before_the_work(folder, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hs, "eigsh", lambda *_, **__: pytest.fail("the work was done"))
    monkeypatch.setattr(os, "fsync", full)
    for option in ("--save", "--report", "--scratch"):
        assert main(["spectrum", "job.py:problem", option, "out/it"]) == 2
        assert f"{option}: cannot write to {folder}: No space left" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_no_name_moves_the_cursor_or_forges_a_line(folder, capsys, monkeypatch):
    name = "x\ncheck: ok"
    finding = hs.Finding("unused", f"{name} is idle", "\x1b[2Jred is, too")
    monkeypatch.setattr(hs, "check_problem", lambda _: hs.Check((finding,)))
    assert main(["check", "job.py:hostile", "--save", "out"]) == 1
    assert main(["show", "out"]) == 0
    out = capsys.readouterr().out
    assert out.count(r"x\ncheck: ok is idle") == 2
    assert out.count(r"\x1b[2Jred is, too") == 2
    assert not set(out) & {"\x1b"}
    assert main(["check", "job.py:hostile", "--weights", "\x1b[2J\nnone"]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert error.count("\n") == 1


def test_a_warning_is_a_line_without_code(folder):
    (folder / "state").mkdir()
    (folder / "quiet.py").write_text(
        "from job import problem\nimport warnings\nwarnings.warn('from the target')\n"
    )
    options = ["--k", "1", "--no-verify", "--max-matvecs", "6", "--resume", "state"]
    run("spectrum", "quiet.py:problem", *options, "--seed", "0", stdout=subprocess.PIPE)
    damaged = next((folder / "state").glob("product-*"))
    damaged.write_bytes(b"")
    done = run("spectrum", "quiet.py:problem", *options, stdout=subprocess.PIPE)
    assert f"hesscope spectrum: {Path('state') / damaged.name} is damaged (" in done.stderr
    assert "quiet.py:3: UserWarning: from the target" in done.stderr
    assert "hesscope/" not in done.stderr
    assert "warnings.warn(" in done.stderr  # the user's line, as Python shows it


# --- modules


def test_a_users_json_hides_no_module(folder):
    for name in ("json.py", "random.py", "rich.py", "tempfile.py"):
        (folder / name).write_text("raise RuntimeError('shadowed')\n")
    done = run("spectrum", "job.py:problem", "--k", "1", "--json", stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["eigenvalues"]) == 1


def test_a_target_named_like_a_module_hides_none(folder, capsys):
    (folder / "json.py").write_text(TARGET)
    assert main(["spectrum", "json.py:problem", "--k", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["eigenvalues"]) == 1
    assert sys.modules["json"] is json


# --- signals


@pytest.mark.skipif(os.name == "nt", reason="sends SIGTERM as schedulers on POSIX do")
def test_sigterm_saves_what_is_there(folder):
    command = [sys.executable, "-m", "hesscope", "diagnose", "job.py:waits", "--save", "out"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(80):  # of 107; the check makes 41 of them
            process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "interrupted, not all was measured" in out
    assert hs.load("out").interrupted


def test_handlers_are_given_back(folder, capsys):
    before = signal.getsignal(signal.SIGTERM), sys.stdout
    main(["spectrum", "job.py:problem", "--k", "1", "--json"])
    assert (signal.getsignal(signal.SIGTERM), sys.stdout) == before
    worker = threading.Thread(target=main, args=(["spectrum", "job.py:problem", "--k", "1"],))
    worker.start()
    worker.join()
    assert "1 eigenpairs" in capsys.readouterr().out

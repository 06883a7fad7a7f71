"""The disk is full at each call that writes, in turn: nothing lost, nothing half, nothing left."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sqlite3
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import hesscope as hs
from hesscope import store
from hesscope.cli import main
from hesscope.cli.slices import draw
from hesscope.landscape import kept
from tests import public_calls
from tests.full_disk import MOST, full
from tests.public_calls import Stage, differences
from tests.results.test_record import assert_identical

FULL = "No space left on device"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage()


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def refusal(call) -> str:
    """What the error says, or nothing."""
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return ""


ONCE = pytest.mark.parametrize("once", [False, True])


@ONCE
@pytest.mark.parametrize("old", [False, True])
def test_a_record_is_the_old_one_or_the_new(old, once, stage, tmp_path):
    for full_at in range(1, MOST):
        folder = tmp_path / str(full_at) / "a"
        if old:
            hs.save(stage.spectrum, folder)
        before = tree(tmp_path)
        with full(full_at, once=once) as disk:
            said = refusal(partial(hs.save, stage.pairs, folder))
        written = said == ""
        if written:
            assert_identical(hs.load(folder), stage.pairs)
            assert len(list(folder.iterdir())) == 2
        else:
            assert re.fullmatch(
                rf"cannot write \d+ bytes to .*: {FULL}. Choose another folder.", said
            )
            assert tree(tmp_path) == before
        if not disk.was_full:
            break
    assert full_at > 10
    assert written


@ONCE
@pytest.mark.parametrize("kind", ["page", "figure"])
def test_a_page_or_figure_is_the_old_one_or_the_new(kind, once, stage, tmp_path):
    path = tmp_path / ("page.html" if kind == "page" else "figure.svg")
    if kind == "page":
        end, write = "</html>", partial(stage.examination.to_html, path)
    else:
        end, write = "</svg>", partial(draw, stage.line, path, log=False)
    for full_at in range(1, MOST):
        path.write_text("old")
        with full(full_at, once=once) as disk:
            said = refusal(write)
        written = said == ""
        assert written or f"to {path}: {FULL}. Choose another place." in said
        assert list(tmp_path.iterdir()) == [path]
        assert path.read_text().rstrip().endswith(end if written else "old")
        if not disk.was_full:
            break
    assert full_at > 3
    assert written


@ONCE
def test_a_spectrum_is_right_whether_its_matrix_can_be_kept_or_not(once, stage, tmp_path):
    def spectrum(folder):
        return hs.spectrum(stage.matrix, scratch=folder)

    expected, results = stage.matrix.diagonal().sort().values, []
    for full_at in range(1, MOST):
        folder = tmp_path / str(full_at)
        with full(full_at, once=once) as disk, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            said = refusal(lambda folder=folder: results.append(spectrum(folder)))
        if said:  # before the work
            assert said == f"cannot write to {folder}: {FULL}. Choose another folder."
        else:
            found = results.pop().eigenvalues
            assert torch.allclose(found, expected, rtol=0, atol=1e-12)
        assert all(FULL in str(warning.message) for warning in told)
        assert not folder.exists()
        if not disk.was_full:
            break
    assert full_at > 5


@ONCE
def test_a_slice_is_right_whether_its_points_can_be_kept_or_not(once, stage, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "EVERY", -1.0)

    def measured(folder):
        return hs.loss_slice(
            stage.problem, stage.v, num_points=3, max_matvecs=2, scratch=folder
        ).losses

    expected = measured(None)
    for full_at in range(1, MOST):
        folder = tmp_path / str(full_at)
        with full(full_at, once=once) as disk, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert torch.equal(measured(folder), expected)
        assert all("cannot keep the points" in str(warning.message) for warning in told)
        assert tree(folder) == {} if folder.exists() else True
        if not disk.was_full:
            break
    assert full_at > 5


def test_damaged_points_of_a_slice_are_computed_again(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(kept.Kept, "finish", lambda _: None)

    def measured():
        return hs.loss_slice(
            stage.problem, stage.v, num_points=3, max_matvecs=2, scratch=tmp_path
        ).losses

    monkeypatch.setattr(kept, "EVERY", -1.0)
    expected = measured()
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-20] ^= 4
    for damaged in (bytes(flipped), whole[:-5], b"", b"x" * 100):
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"is damaged .*computed again"):
            assert torch.equal(measured(), expected)
    assert torch.equal(measured(), expected)


def watched(folder: Path) -> list[float]:
    """A training that is watched, and its losses."""
    model = public_calls.made(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = public_calls.INPUTS, public_calls.LABELS
    problem, losses = hs.Problem(model, F.cross_entropy, data), []
    with hs.Monitor(problem, optimizer, every=1, quantities=["loss"], to=folder) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(data[0]), data[1])
            loss.backward()
            optimizer.step()
            monitor.step(loss)
            losses.append(loss.item())
    return losses


def _look_at_run(folder: Path, found: list[float] | None, expected: list[float]) -> None:
    """What is there can be read, and once there is room the run can go on."""
    if found is not None:
        assert found == expected  # training is not disturbed
        assert set(hs.load(folder)["loss"].steps.tolist()) <= {0, 1, 2}
    assert [path for path in tree(folder.parent) if path.endswith(".tmp")] == []
    watched(folder)
    assert hs.load(folder).last_step >= 2


@pytest.mark.parametrize("once", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_goes_on_whatever_the_disk_says(once, tmp_path):
    expected = watched(tmp_path / "reference")
    for full_at in range(1, MOST):
        folder, found = tmp_path / str(full_at) / "run", None
        with full(full_at, once=once) as disk, contextlib.suppress(RuntimeError):
            found = watched(folder)
        _look_at_run(folder, found, expected)
        if not disk.was_full:
            break
    assert full_at > 3


def test_a_database_that_is_full_keeps_whole_steps(tmp_path, monkeypatch):
    connect, failed = sqlite3.connect, 0
    for pages in range(8, 99):
        folder = tmp_path / str(pages)

        def limited(*args, pages=pages, **options):
            db = connect(*args, **options)
            db.execute("PRAGMA page_size = 512")
            db.execute(f"PRAGMA max_page_count = {pages}")
            return db

        with monkeypatch.context() as patch:
            patch.setattr("hesscope.store.sqlite3.connect", limited)
            written = 0
            try:
                with store.RunFolder(folder) as run:
                    while written < 6:
                        run.add(written, {f"quantity {i}": float(i) for i in range(30)})
                        written += 1
            except RuntimeError as error:
                said = str(error)
        if written < 6:
            failed += 1
            assert f"cannot write to {folder}" in said
            assert "database or disk is full" in said
        if (folder / store.FILE).exists():
            history = hs.load(folder)
            assert history.last_step == written - 1
            assert all(len(series) == written for series in history.series.values())
        else:
            assert written == 0
            assert not folder.exists()
        with store.RunFolder(folder) as run:  # there is room again
            run.add(9, {"quantity 0": 1.0})
        if written == 6:
            break
    assert written == 6
    assert failed > 5


TARGET = """
import torch, hesscope as hs

def problem():
    torch.manual_seed(0)
    data = torch.randn(8, 2), torch.randn(8, 2)
    return hs.Problem(torch.nn.Linear(2, 2), torch.nn.functional.mse_loss, data)
"""


@pytest.mark.parametrize("once", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_command_tells_its_result_or_says_why_not(once, tmp_path, monkeypatch, capsys):
    (tmp_path / "job.py").write_text(TARGET)
    monkeypatch.chdir(tmp_path)
    folder, page = tmp_path / "kept", tmp_path / "page.html"
    command = ["diagnose", "job.py:problem", "--lr", "0.1", "--effort", "quick"]
    command += ["--save", str(folder), "--report", str(page), "--json"]
    assert main(command) in (0, 1)
    capsys.readouterr()
    statuses = []
    for full_at in range(1, MOST):
        page.write_text("old")
        hs.save({"old": 1.0}, folder)
        with full(full_at, once=once) as disk:
            statuses.append(main(command))
        out, err = capsys.readouterr()
        assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != "_") == [
            "job.py", "kept", "page.html",
        ]  # fmt: skip
        assert len(list(folder.iterdir())) == 2
        if statuses[-1] == 2:
            assert FULL in err
            assert err.count("\n") == 1
        saved = hs.load(folder)
        if out:
            assert json.loads(out)
        else:
            assert statuses[-1] == 2
            assert saved == {"old": 1.0} or str(folder) in err
        assert page.read_text() == "old" or page.read_text().rstrip().endswith("</html>")
        if not disk.was_full:
            break
    assert statuses[-1] in (0, 1)
    assert 2 in statuses


LIMITED = """
import resource, signal, sys, torch, hesscope as hs
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    hs.save({"values": torch.ones(3_000, dtype=torch.float64)}, sys.argv[1])
except RuntimeError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the shell")
@pytest.mark.parametrize("size", [0, 100, 20_000, 100_000])
def test_a_limit_of_the_system_is_met_in_the_same_way(size, tmp_path):
    hs.save({"old": 1.0}, tmp_path)
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(size)]
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    kept_one = hs.load(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    if size == 100_000:
        assert run.returncode == 0
        assert kept_one["values"].sum() == 3_000
    else:
        assert run.returncode == 1
        assert os.strerror(errno.EFBIG) in run.stderr
        assert kept_one == {"old": 1.0}
    assert differences(kept_one, hs.load(tmp_path)) == []

"""The commit of the user's code is told, and its absence costs nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hesscope.results.record import provenance
from hesscope.system import worktree

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git on this machine")


def git(folder: Path, *command: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *command], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "train.py").write_text("x = 1\n")
    git(tmp_path, "add", "train.py")
    git(tmp_path, "commit", "-qm", "begin")
    worktree.commit.cache_clear()
    return tmp_path


@needs_git
def test_the_commit_and_changes_are_told(repository):
    head = git(repository, "rev-parse", "HEAD")
    assert worktree.commit(repository) == head
    (repository / "new.py").write_text("")  # a run folder or a page: no change of the code
    worktree.commit.cache_clear()
    assert worktree.commit(repository) == head
    (repository / "train.py").write_text("x = 2\n")
    worktree.commit.cache_clear()
    assert worktree.commit(repository) == f"{head}, with changes that are not committed"


@needs_git
def test_no_repository_no_commit_yet_and_a_broken_one_say_nothing(repository, tmp_path_factory):
    assert worktree.commit(tmp_path_factory.mktemp("plain")) == ""
    empty = tmp_path_factory.mktemp("empty")
    git(empty, "init", "-q")
    assert worktree.commit(empty) == ""
    (repository / ".git" / "HEAD").write_text("ref: nothing\n")
    worktree.commit.cache_clear()
    assert worktree.commit(repository) == ""


def test_without_git_or_with_one_that_hangs_nothing_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    worktree.commit.cache_clear()
    assert worktree.commit(tmp_path) == ""
    slow = tmp_path / "git"
    slow.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    slow.chmod(0o755)
    monkeypatch.setattr(worktree, "PATIENCE", 0.2)
    worktree.commit.cache_clear()
    assert worktree.commit(tmp_path) == ""


@needs_git
def test_provenance_names_the_commit_of_the_target(repository, monkeypatch):
    monkeypatch.setattr(worktree, "_targets", [])
    worktree.looks_at(repository / "train.py")
    assert provenance()["code"] == git(repository, "rev-parse", "HEAD")


@needs_git
@pytest.mark.parametrize("start", ["script", "elsewhere"])
def test_a_script_is_asked_for_its_own_repository(start, repository, tmp_path_factory):
    code = "from hesscope.results.record import provenance; print(provenance().get('code'))"
    (repository / "run.py").write_text(code)
    there = repository if start == "script" else tmp_path_factory.mktemp("other")
    done = subprocess.run(
        [sys.executable, str(repository / "run.py")], cwd=there, capture_output=True, text=True,
        check=True, env=dict(os.environ),
    )  # fmt: skip
    assert done.stdout.strip() == git(repository, "rev-parse", "HEAD")

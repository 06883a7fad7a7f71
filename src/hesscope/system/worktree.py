"""The commit of the code that is being run, where that lives in a git repository."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

PATIENCE = 3.0  # seconds that git may take
OWN = Path(__file__).resolve().parents[1]
_targets: list[Path] = []


def looks_at(file: Path) -> None:
    """Notes that this file is the user's code, wherever the process was started."""
    _targets.append(file.resolve().parent)


def folder() -> Path:
    """Where the user's code is: beside its target or its script, else the working directory.

    A script of Python's own or of hesscope's says nothing of the user.
    """
    if _targets:
        return _targets[-1]
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is None or not Path(script).is_file():
        return Path.cwd()
    path = Path(script).resolve()
    others = (OWN, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve() / "lib")
    return Path.cwd() if any(path.is_relative_to(one) for one in others) else path.parent


@cache
def commit(where: Path) -> str:
    """The commit checked out there, and whether files differ from it; empty without git.

    Asked once per folder: code that runs is that with which the process began.

    >>> commit(Path("/nowhere/at/all"))
    ''
    """
    head = _git(where, "rev-parse", "HEAD")
    if not head:
        return ""
    changed = _git(where, "status", "--porcelain", "--untracked-files=no")
    if changed is None:
        return f"{head} (whether files have changed since is not known)"
    return f"{head}, with changes that are not committed" if changed else head


def _git(where: Path, *command: str) -> str | None:
    """What git says; None where there is no git, no repository, or no answer in time."""
    calm = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", str(where), *command],
            capture_output=True, text=True, errors="replace", timeout=PATIENCE, env=calm,
            stdin=subprocess.DEVNULL, start_new_session=True, check=False,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

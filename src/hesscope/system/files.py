"""Files that are written whole or not at all, and read without waiting for what is no file.

Python's own means: a name of its own for what is being written, `fsync`, `os.replace`, and `flock`
on the file while it is being written, by which others see that its writer lives.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from hesscope.system import interrupts

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LONGEST = 60  # characters of a name that what is written beside it repeats


def replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Lets `write` fill a file beside `path`, and moves it into place.

    At any time `path` is what it was or what it shall be, also when the process is killed. An
    interrupt waits until it is done. What killed writers of `path` have left is removed. A link is
    followed; a pipe or a device is written to directly.

    Raises:
        OSError: if it cannot be written; `path` is then what it was.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with path.open("wb") as other:
            write(other)
        return
    with interrupts.deferred():
        remove_orphans(path.parent, path.name)
        temporary, file = _beside(path)
        try:
            with file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
                if path.exists():
                    shutil.copymode(path, temporary)
                if fcntl is None:  # Windows moves closed files only
                    file.close()
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)


def remove_orphans(folder: Path, name: str) -> None:
    """Removes what killed writers of files of this name (or glob) have left in a folder."""
    for temporary in folder.glob(f".{name[:LONGEST]}.{'[0-9a-f]' * 16}.tmp"):
        with contextlib.suppress(OSError), temporary.open("rb") as file:
            if _try_lock(file):  # else its writer lives
                temporary.unlink(missing_ok=True)


def read(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: if there is none, if it cannot be read, or if it is a pipe, a device or a folder,
            for which others would wait.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:  # noqa: PTH123  an open descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            msg = "not a regular file"
            raise OSError(0, msg, str(path))
        return file.read()


def _beside(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path` that is locked, its name in no use by anyone else."""
    while True:
        name = f".{path.name[:LONGEST]}.{secrets.token_hex(8)}.tmp"
        temporary = path.with_name(name)
        file = temporary.open("xb")
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if fcntl is None or os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # taken for an orphan before it was locked


def _try_lock(file: BinaryIO) -> bool:
    """Whether nobody else holds the file; False as well where that cannot be known."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Writes the names of a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

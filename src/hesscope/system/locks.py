"""A folder that one writer at a time works in; the others are told who does."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

from hesscope.system.closing import Closing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
PAUSE = 0.01  # seconds between two tries
_held: WeakValueDictionary[tuple[str, int], Locked] = WeakValueDictionary()  # by path and thread


class Locked(Closing):
    """Inside, no other process or thread that asks the same way works in the folder.

    The folder is made if needed, and goes again if nothing was put into it. The lock is advisory
    (`flock` on a file in the folder) and ends with its process, however that ends. In a thread that
    holds the folder already nothing happens. `exclusive` is False where the file system knows no
    locks: the caller then removes nothing that others may have written.

    Args:
        folder: to work in.
        wait: seconds until another writer has to be done.
    """

    def __init__(self, folder: Path, wait: float = 0.0) -> None:
        self.folder, self.wait = Path(folder), wait
        self.exclusive = True
        self._file: IO[str] | None = None
        self._key = (os.path.realpath(folder), threading.get_ident())

    def __enter__(self) -> Locked:
        """Takes the folder.

        Raises:
            RuntimeError: if another holds it; the message says who.
            OSError: if the folder cannot be made or written to.
        """
        if self._key in _held:
            self.exclusive = _held[self._key].exclusive
            return self
        self._made = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        try:
            self._take()
        except BaseException:
            self._remove_made()
            raise
        _held[self._key] = self
        return self

    def close(self) -> None:
        """Lets the folder go."""
        if _held.get(self._key) is not self:
            return
        del _held[self._key]
        if self._file is not None:
            with self._file, contextlib.suppress(OSError):
                (self.folder / NAME).unlink(missing_ok=True)
        self._remove_made()

    def _take(self) -> None:
        """Waits until the folder is ours.

        Raises:
            RuntimeError: if another holds it for longer.
        """
        until = time.monotonic() + self.wait
        while not self._try():
            if time.monotonic() > until:
                msg = (
                    f"{self.folder} is in use by {self._holder()}. Wait until that has ended, or "
                    "choose another folder."
                )
                raise RuntimeError(msg)
            time.sleep(PAUSE)

    def _remove_made(self) -> None:
        """Removes the folders that were made here, if nothing lies in them."""
        for folder in self._made:
            with contextlib.suppress(OSError):  # not empty, or never made
                folder.rmdir()

    def _try(self) -> bool:
        """Whether the folder is ours now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / NAME
        if fcntl is None:
            self.exclusive = False
            return True
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError:  # a file system without locks
            file.close()
            self.exclusive = False
            return True
        if not _is_at(file, path):  # the holder before us has removed it
            file.close()
            return False
        self._file = file
        self._sign()
        return True

    def _sign(self) -> None:
        assert self._file is not None
        now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
        with contextlib.suppress(OSError):  # a full disk: held without a name
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {platform.node()} since {now}")
            self._file.flush()

    def _holder(self) -> str:
        try:
            told = (self.folder / NAME).read_text("utf-8", "replace")[:200]
        except OSError:
            told = ""
        return told if told.isprintable() and told else "another process"


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the open file is still the one that has this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False

"""A disk that is full from the k-th call on that would write to it."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Disk:
    """Counts calls that write; from call `full_at` on they fail, one of them or all that follow."""

    def __init__(self, full_at: int, *, once: bool) -> None:
        self.full_at, self.once, self.calls = full_at, once, 0

    @property
    def was_full(self) -> bool:
        return self.calls >= self.full_at

    def write(self) -> None:
        self.calls += 1
        if self.calls == self.full_at or (self.was_full and not self.once):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def outer(*args: Any, **kwargs: Any) -> Any:
            self.write()
            return function(*args, **kwargs)

        return outer

    def opened(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def outer(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not set(mode) & set("wxa+"):
                return function(file, mode, *args, **kwargs)
            self.write()
            return File(function(file, mode, *args, **kwargs), self)

        return outer


class File:
    """An open file on that disk; half of what does not fit is written, as it happens."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: Any) -> int:
        try:
            self._disk.write()
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return self._file.write(data)

    def flush(self) -> None:
        self._disk.write()
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def full(full_at: int, *, once: bool) -> Iterator[Disk]:
    disk = Disk(full_at, once=once)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", disk.opened(builtins.open))
        patch.setattr(io, "open", disk.opened(io.open))
        for name in ("fsync", "replace", "rename", "mkdir"):
            patch.setattr(os, name, disk.checked(getattr(os, name)))
        yield disk


MOST = 200  # calls


def at_each_call(once: bool) -> Iterator[int]:
    """The numbers of the calls at which to fail; whoever sees that none is left ends it."""
    yield from range(1, MOST)
    pytest.fail(f"more than {MOST} calls that write")

"""Tensors in files on a disk, mapped into memory: more than memory holds, and gone when let go."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from pathlib import Path

import torch
from torch import Tensor

from hesscope.system.memory import human

IN_MEMORY = ("tmpfs", "ramfs")  # file systems that are no disk


def folder_on_disk() -> Path:
    """A folder for temporary files that is not itself in memory, as /tmp often is."""
    usual = Path(tempfile.gettempdir())
    for folder in (usual, Path("/var/tmp"), Path.cwd()):
        if os.access(folder, os.W_OK) and not _is_in_memory(folder):
            return folder
    return usual


def free_on_disk(folder: Path) -> int:
    """Bytes that files in a folder may still take."""
    return shutil.disk_usage(folder).free


def mapped(folder: Path, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A tensor of any content in a file that goes with it, and with the process if that is killed.

    Its room is reserved first: to write into a mapped file on a full disk kills a process.

    Raises:
        MemoryError: if the disk has no room, or the file cannot be made.
    """
    numbers = shape[0] * shape[1]
    if numbers == 0:
        return torch.empty(shape, dtype=dtype)
    size, name = numbers * dtype.itemsize, ""
    try:
        descriptor, name = tempfile.mkstemp(".vectors", "hesscope-", folder)
        with open(descriptor, "wb") as file:  # noqa: PTH123  an open descriptor
            _reserve(file.fileno(), folder, size)
        block = torch.from_file(name, shared=True, size=numbers, dtype=dtype)
    except OSError as error:
        _remove(name)
        msg = f"no room for {human(size)} of vectors in {folder}: {error.strerror or error}"
        raise MemoryError(msg) from error
    if not _remove(name):  # a system that keeps the names of files in use
        weakref.finalize(block.untyped_storage(), _remove, name)
    return block.view(shape)


def _reserve(descriptor: int, folder: Path, size: int) -> None:
    """Makes a file so long that no write into it can find the disk full.

    Raises:
        OSError: if there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    free = free_on_disk(folder)
    if size > free:
        msg = f"{human(free)} are free"
        raise OSError(0, msg)
    os.truncate(descriptor, size)


def _remove(name: str) -> bool:
    """Whether no file of this name is there any more."""
    with contextlib.suppress(OSError):
        Path(name).unlink(missing_ok=True)
    return not name or not Path(name).exists()


def _is_in_memory(folder: Path) -> bool:
    """Whether the file system that a folder is on keeps its files in memory, as far as is told."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:  # not Linux
        return False
    kinds = {Path(mount): kind for _, mount, kind, *_ in (line.split(" ") for line in lines)}
    inner = folder.resolve()
    return next((kinds[p] for p in (inner, *inner.parents) if p in kinds), "") in IN_MEMORY

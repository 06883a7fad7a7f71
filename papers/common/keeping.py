"""A run folder: what has been measured is kept there, with its time and memory, and read again.

A kept result names the conditions that it was measured under; under others it is measured anew.
Files are moved into place when they are complete, so that a run that is killed loses only the
piece that it was working on.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

import hesscope as hs

Arrays = dict[str, Tensor]
console = Console(stderr=True, highlight=False)


class NotMeasuredError(LookupError):
    """What a part needs is not in the run folder."""


class Run:
    """Measures by name, or reads what was measured before under the same conditions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begin()

    def begin(self, *, only_kept: bool = False) -> None:
        """A new figure; with `only_kept` what is not there yet raises NotMeasuredError."""
        self.used: list[str] = []  # names of what the present figure was made from
        self.only_kept = only_kept

    def arrays(self, name: str, key: Any, job: Callable[[], Arrays]) -> Arrays:
        """Named tensors."""

        def save(found: Arrays, folder: Path) -> None:
            write_npz(folder / "arrays.npz", found)

        return self._keep(name, key, job, save, lambda folder: read_npz(folder / "arrays.npz"))

    def result(self, name: str, key: Any, job: Callable[[], Any]) -> Any:
        """A result of hesscope, by `hs.save` and `hs.load`."""
        return self._keep(name, key, job, hs.save, hs.load)

    def scratch(self, name: str) -> Path:
        """A folder for the intermediate state of a long computation."""
        folder = self.folder / "scratch" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def facts(self, name: str) -> dict[str, Any]:
        """Seconds, peak memory and circumstances of a kept result."""
        return json.loads((self.folder / name / "facts.json").read_text("utf-8"))

    def _keep(self, name: str, key: Any, job: Any, save: Any, load: Any) -> Any:
        self.used.append(name)
        folder, fingerprint = self.folder / name, hashlib.sha256(repr(key).encode()).hexdigest()
        facts = folder / "facts.json"
        if facts.exists() and self.facts(name)["conditions"] == fingerprint:
            return load(folder)
        if self.only_kept:
            msg = f"{name} has not been measured"
            raise NotMeasuredError(msg)
        console.print(f"  {name} ...")
        facts.unlink(missing_ok=True)
        found, cost = self._measure(job)
        folder.mkdir(parents=True, exist_ok=True)
        save(found, folder)
        record = {"conditions": fingerprint, "key": repr(key), **cost, **circumstances()}
        write_text(facts, json.dumps(record, indent=1))
        console.print(f"  {name}: {cost['seconds']:.1f} s, {cost['peak_bytes'] / 1e9:.2f} GB")
        return found

    def _measure(self, job: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
        with measuring() as cost:
            found = job()
        return found, cost


def circumstances() -> dict[str, Any]:
    """Where and when a number was made."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="minutes"),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "hesscope": hs.__version__,
        "machine": platform.machine(),
    }


@contextmanager
def measuring() -> Iterator[dict[str, float]]:
    """Wall and processor seconds, and the peak memory of the process meanwhile."""
    _restart_peak()
    cost: dict[str, float] = {}
    start, processor = time.perf_counter(), time.process_time()
    yield cost
    cost["seconds"] = time.perf_counter() - start
    cost["processor_seconds"] = time.process_time() - processor
    cost["peak_bytes"] = float(_peak())


def _restart_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # then the peak is that of the whole run


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_npz(file: Path, arrays: Arrays) -> None:
    """Writes an archive and moves it into place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{os.getpid()}.{file.name}")
    np.savez(temporary, **{name: array.numpy() for name, array in arrays.items()})
    temporary.replace(file)


def read_npz(file: Path) -> Arrays:
    """The tensors of an archive."""
    with np.load(file) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive}


def write_text(file: Path, text: str) -> None:
    """Writes a text and moves it into place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{os.getpid()}.{file.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


@contextmanager
def progress() -> Iterator[None]:
    """A bar for whatever hesscope reports, on a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    bar = Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip
    task = bar.add_task("")
    with bar, hs.listening(lambda label, done, total: bar.update(
        task, description=label, completed=done, total=total
    )):  # fmt: skip
        yield

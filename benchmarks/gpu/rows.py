"""What a check says, and how it waits for the device, times it and counts its bytes."""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Setting:
    device: torch.device
    tiny: bool


@dataclass(frozen=True)
class Row:
    """One figure or finding; `holds` is False where something was promised and is not so."""

    name: str
    value: Any
    holds: bool = True

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def at_most(name: str, value: float, bound: float) -> Row:
    """A number with its bound."""
    return Row(name, f"{value:.2g} (bound {bound:.2g})", value <= bound)


def attempted(name: str, rows: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """The rows; what stops them is told as one that does not hold, and the next part runs."""
    try:
        yield from rows()
    except Exception as error:
        traceback.print_exc()
        yield Row(f"{name} stopped", f"{type(error).__name__}: {error}", holds=False)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(setting: Setting, work: Callable[[], Any], repeat: int = 5) -> float:
    """The median of several runs, after one that warms up."""
    found = []
    for _ in range(1 if setting.tiny else repeat + 1):
        wait(setting.device)
        started = time.perf_counter()
        work()
        wait(setting.device)
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:] or found)


def peak_bytes(setting: Setting, work: Callable[[], Any]) -> int:
    """The most that was allocated during the work, beyond what was there before; 0 on a CPU."""
    if setting.device.type != "cuda":
        work()
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(setting.device)
    before = torch.cuda.memory_allocated(setting.device)
    work()
    wait(setting.device)
    return torch.cuda.max_memory_allocated(setting.device) - before

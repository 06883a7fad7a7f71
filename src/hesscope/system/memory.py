"""How much memory is free, so that a large computation is refused before it starts, not during."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`, the container's own limit included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_free_on_host(), _free_in_container())


def human(num_bytes: float) -> str:
    """A size as people read it.

    >>> human(29.4e9), human(2048)
    ('29.4 GB', '2 kB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            value = num_bytes / size
            return f"{value:.1f} {unit}" if value < 100 and unit == "GB" else f"{value:.0f} {unit}"
    return f"{num_bytes:.0f} bytes"


def _free_on_host() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux: count half of the physical pages as free
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _free_in_container() -> int:
    """Limit minus use of the control group (version 2), or a very large number without one."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
    except OSError:
        return 1 << 62
    return (1 << 62) if limit == "max" else max(0, int(limit) - int(used))

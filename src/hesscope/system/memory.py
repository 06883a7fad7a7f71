"""How much memory is free, so that a large computation is refused before it starts, not during."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import torch

UNLIMITED = 1 << 62


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`.

    On the host by the kernel's account, by control groups (of either version, nested ones too) and
    by the limits of the process.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_free_on_host(), _free_in_groups(), _free_below_limits())


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


def _free_in_groups() -> int:
    """What the control groups of this process leave, and all groups around them (v1 and v2)."""
    free = [UNLIMITED]
    for line in _lines("/proc/self/cgroup") or ["0::/"]:
        _, kinds, place = line.split(":", 2)
        if kinds not in ("", "memory") and "memory" not in kinds.split(","):
            continue
        root = "/sys/fs/cgroup" if kinds == "" else "/sys/fs/cgroup/memory"
        names = ("max", "current") if kinds == "" else ("limit_in_bytes", "usage_in_bytes")
        inner = PurePosixPath("/", place.strip())
        free += [_left(f"{root}{group}".rstrip("/"), *names) for group in (inner, *inner.parents)]
    return min(free)


def _left(group: str, limit: str, used: str) -> int:
    """Limit minus use of one group, file pages that can be dropped not counted as use."""
    most, now = (_lines(f"{group}/memory.{name}") for name in (limit, used))
    if not most or not now or not most[0].strip().isdigit():
        return UNLIMITED
    fields = dict(line.split() for line in _lines(f"{group}/memory.stat"))
    droppable = int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
    return max(0, int(most[0]) - int(now[0]) + droppable)


def _free_below_limits() -> int:
    """What `ulimit -v` and `ulimit -d` leave to this process."""
    try:
        import resource  # POSIX only
    except ImportError:
        return UNLIMITED
    pages = " ".join(_lines("/proc/self/statm")).split()
    free = [UNLIMITED]
    for limit, place in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY and len(pages) > place:
            free.append(max(0, soft - int(pages[place]) * resource.getpagesize()))
    return min(free)


def _lines(path: str) -> list[str]:
    """The lines of a file; none where there is no such file."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be had, on whatever device.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error) if isinstance(error, RuntimeError) else ""
    return "allocate memory" in said or "not enough memory" in said  # of torch's CPU allocator

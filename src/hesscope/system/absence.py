"""Who did not come to a meeting of processes: told where torch only says that it waited in vain.

Before each meeting a process notes its number in the store that the group was made with. When one
fails, whoever has not noted that number is dead or stuck elsewhere.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.constants import default_pg_timeout

LEAVE = 3.0  # seconds in which those that live note that the meeting has failed
LOOK = 0.1
ABSENCE = "_of_a_process"

# Of each group, how often; by the group itself, for another may come to lie where one was.
_numbers: WeakKeyDictionary[Any, Counter[str]] = WeakKeyDictionary()


def is_absence(error: BaseException) -> bool:
    """Whether it says that a process did not come: nothing can be done together any more."""
    return getattr(error, ABSENCE, False)


@contextmanager
def named_absence() -> Iterator[None]:
    """One meeting of all processes; where it fails, the error names those who did not come.

    Raises:
        RuntimeError: if it fails: at once if a process is dead, after the time limit of the group
            (`init_process_group(timeout=...)`) if one is stuck.
    """
    number = next_number("meeting")
    note(str(dist.get_rank()), f"came to {number}")
    try:
        yield
    except RuntimeError as error:
        note(str(dist.get_rank()), f"left {number}")
        said = str(error).strip().splitlines() or [""]
        msg = f"{_absent(number)}. torch says: {said[0][:200]}"
        absence = RuntimeError(msg)
        setattr(absence, ABSENCE, True)
        raise absence from error


def _absent(number: int) -> str:
    """Who is missing at a meeting that failed, in words."""
    ranks = [rank for rank in range(dist.get_world_size()) if rank != dist.get_rank()]
    late = [rank for rank in ranks if _number(noted(str(rank))) < number]
    if late:
        return f"{_listed(late)} did not come to where the others wait: dead, or stuck elsewhere"
    end = time.monotonic() + LEAVE
    while time.monotonic() < end:
        gone = [rank for rank in ranks if noted(str(rank)) == f"came to {number}"]
        if not gone:
            break
        time.sleep(LOOK)
    if gone:
        return f"{_listed(gone)} died, or hangs, where all meet"
    return "the processes cannot meet"


def _listed(ranks: list[int]) -> str:
    word = "process" if len(ranks) == 1 else "processes"
    return f"{word} {', '.join(map(str, ranks))}"


def _number(text: str) -> int:
    return int(text.rpartition(" ")[2] or 0)


def next_number(what: str) -> int:
    """How many such things all processes of the group have begun together, this one included."""
    counts = _numbers.setdefault(dist.group.WORLD, Counter())
    counts[what] += 1
    return counts[what]


def note(name: str, text: str) -> None:
    """Leaves a note for the other processes, in place of the one of this name."""
    store = _store()
    if store is not None:
        try:
            store.set(name, text)
        except RuntimeError:  # its host is gone; the meeting fails by itself, and says so
            return


def noted(name: str) -> str:
    """The note of this name; "" if there is none, or if nobody can tell."""
    store = _store()
    try:
        if store is None or not store.check([name]):
            return ""
        return str(store.get(name).decode())
    except RuntimeError:
        return ""


def time_limit() -> timedelta | None:
    """How long processes of the group wait for one another; None where nobody can tell."""
    store = _store()
    return None if store is None else getattr(store, "timeout", default_pg_timeout)


def _store() -> Any:
    """What the group was made with, for notes of ours; None where this torch does not tell."""
    find = getattr(distributed_c10d, "_get_default_store", None)
    return None if find is None else distributed_c10d.PrefixStore("hesscope", find())

"""A sweep: each process is by itself for a while, at items of its own, and then all go on together.

Nobody meets inside, so the time limit of the group is no limit of a sweep. Each process notes what
it is at, and a beat now and then, in the store that the group was made with. Who has ended waits
as long as the others are heard; what one raises all raise, before their next item or at the end.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from hesscope.system.absence import LOOK, next_number, note, noted, time_limit
from hesscope.system.agreement import failure, is_known, raise_for, raise_known, several
from hesscope.system.alone import alone
from hesscope.system.progress import overhearing

BEAT = 0.5  # seconds between two beats, at least
PULSE = 1.0  # seconds between two beats of a process that lives, whatever it does


@contextmanager
def sweeping(*, pulse: bool = False) -> Iterator[Callable[[str], None]]:
    """Inside, this process is the only one; at the end it waits for the others. All enter it.

    Args:
        pulse: whether a process is heard as long as it lives, for work that hesscope does not see;
            else where it multiplies, so that one that is stuck is missed, too.

    Yields:
        What is to be called with the name of each item before it is begun.

    Raises:
        RuntimeError: if another process was not heard for as long as the time limit of the group.
        Exception: of the same kind as that of a process that has failed; it is named, and its item.

    >>> with sweeping() as begin:  # in one process nothing changes
    ...     begin("the first")
    """
    if not several():
        yield lambda _: None
        return
    notes = _Notes()
    try:
        with alone(), _pulsing(notes.beat) if pulse else overhearing(notes.beat):
            yield notes.begin
    except BaseException as error:
        notes.fail(error)
        raise
    notes.wait()


@contextmanager
def _pulsing(beat: Callable[[], None]) -> Iterator[None]:
    """Inside, a thread calls `beat` now and then."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(PULSE):
            beat()

    thread = threading.Thread(target=run, daemon=True, name="hesscope pulse")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def shares(work: list[bool], num: int) -> list[range]:
    """Consecutive items for each of `num` processes, with as many that are work for each.

    >>> shares([True] * 7, 3), shares([False, False, True, True], 2)
    ([range(0, 3), range(3, 5), range(5, 7)], [range(0, 3), range(3, 4)])
    >>> shares([True], 2)
    [range(0, 1), range(1, 1)]
    """
    costs = work if any(work) else [True] * len(work)
    places = [i for i, cost in enumerate(costs) if cost]
    each, more = divmod(len(places), num)
    ends, taken = [], 0
    for rank in range(num):
        taken += each + (rank < more)
        ends.append(places[taken - 1] + 1 if taken else 0)
    ends[-1] = len(work)
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


class _Notes:
    """What this process says of itself in a sweep, and what the others do."""

    def __init__(self) -> None:
        self.number, self.rank = next_number("sweep"), dist.get_rank()
        self.others = [r for r in range(dist.get_world_size()) if r != self.rank]
        self.item, self.beats, self.told = "", 0, 0.0

    def begin(self, item: str) -> None:
        """Notes that an item is begun, unless another process has failed.

        Raises:
            Exception: what that one has raised.
        """
        for rank in self.others:
            self._heard(rank)
        self.item = item
        self._tell()

    def beat(self, *_: Any) -> None:
        """Notes that work goes on."""
        if time.monotonic() - self.told > BEAT:
            self._tell()

    def fail(self, error: BaseException) -> None:
        """Notes why this process ends, unless it is for what another has told."""
        if not is_known(error):
            at = f"at {self.item}" if self.item else "in a sweep"
            told = failure(error)
            self._say({**told, "why": f"{at}: {told['why']}"})
            error.add_note(f"({at}, in process {self.rank})")

    def wait(self) -> None:
        """Waits until all have ended.

        Raises:
            RuntimeError: if one is not heard any more.
            Exception: what one has raised.
        """
        self._say({"done": True})
        limit = time_limit()
        if limit is None:
            return
        begun = time.monotonic()
        last: dict[int, tuple[dict[str, Any], float]] = {rank: ({}, begun) for rank in self.others}
        while last:
            for rank, (known, since) in list(last.items()):
                now, found = time.monotonic(), self._heard(rank) or known
                if found.get("done"):
                    del last[rank]
                elif found != known:
                    last[rank] = found, now
                elif now - since > limit.total_seconds():
                    raise_known(RuntimeError(_silence(rank, known, now - since)))
            time.sleep(LOOK)

    def _heard(self, rank: int) -> dict[str, Any]:
        """What a process has said last.

        Raises:
            Exception: what it has raised.
        """
        text = noted(self._name(rank))
        record: dict[str, Any] = json.loads(text) if text else {}
        if "failed" in record:
            raise_for(rank, record)
        return record

    def _tell(self) -> None:
        self.beats, self.told = self.beats + 1, time.monotonic()
        self._say({"at": self.item, "beat": self.beats})

    def _say(self, record: dict[str, Any]) -> None:
        note(self._name(self.rank), json.dumps(record))

    def _name(self, rank: int) -> str:
        return f"sweep {self.number} {rank}"


def _silence(rank: int, known: dict[str, Any], seconds: float) -> str:
    at = f" since it began {known['at']}" if known.get("at") else ""
    return (
        f"process {rank} was not heard for {seconds:.0f} s{at}: dead, or stuck there. The others "
        "have ended what was theirs."
    )

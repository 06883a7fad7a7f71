"""What processes tell one another before each sum: whether all go on, and with the same things.

A process that fails between two sums would leave the others waiting, and one that has other weights
would spoil the numbers of all. So each sum begins with a record of every process, some hundred
bytes: the shape of what comes, checksums of what has to be the same, or why there is nothing to
come. All read all records, so all draw the same conclusion.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hesscope.system.absence import named_absence
from hesscope.system.alone import is_alone
from hesscope.system.memory import is_out_of_memory

ROOM, SAID = 8_192, 600  # bytes of a record; characters of each of three sentences in it
ROW = 1_024  # numbers of a tensor to a row of a table, of which rows and columns are summed
BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
ELSEWHERE = "has failed, so all stop"
TOLD = "_told_to_other_processes"

Kind = TypeVar("Kind", bound=type[Exception])

_kinds: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (RuntimeError, ValueError, MemoryError)
}


class DisagreementError(RuntimeError):
    """Processes that share the data have different weights, vectors or work."""


@dataclass(frozen=True)
class Same:
    """Tensors that have to be the same in all processes, with a name for each.

    They are looked up only where there are other processes.
    """

    what: str
    names: Sequence[str]
    tensors: Callable[[], Sequence[Tensor]]

    def digests(self) -> list[int]:
        """A checksum of each tensor."""
        return [digest(tensor) for tensor in self.tensors()]


def shared_error(kind: Kind) -> Kind:
    """A class of errors that other processes raise, too, where one raises it."""
    _kinds[kind.__name__] = kind
    return kind


def digest(tensor: Tensor) -> int:
    """A checksum of the numbers of a tensor as they are, bit by bit, made where they lie.

    >>> one = torch.ones(3)
    >>> digest(one) == digest(torch.ones(3)), digest(one) == digest(torch.tensor([1.0, 1.0, -1.0]))
    (True, False)
    """
    bits = tensor.detach().contiguous().view(-1).view(BITS[tensor.element_size()])
    whole = len(bits) - len(bits) % ROW
    table = bits[:whole].view(-1, ROW)
    sums = [table.sum(axis, dtype=torch.int64) for axis in (0, 1)]
    parts = torch.cat([*sums, bits[whole:].long()]).cpu()
    return zlib.crc32(parts.numpy().tobytes(), zlib.crc32(repr(tuple(tensor.shape)).encode()))


@contextmanager
def together() -> Iterator[None]:
    """Work of one process between two sums: an error in it is told to the others, who raise, too.

    Without, they would wait in the next sum for what never comes.
    """
    try:
        yield
    except BaseException as error:
        if several() and not is_known(error):
            _records(failure(error))
        raise


@contextmanager
def in_step() -> Iterator[None]:
    """Work that ends well in all processes or in none, whether or not they sum anything in it."""
    with together():
        yield
    if several():
        exchange({})


def several() -> bool:
    """Whether there are other processes, and this one is not by itself just now."""
    there = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return there and not is_alone()


def exchange(own: dict[str, Any]) -> list[dict[str, Any]]:
    """What each process says, in their order; all have to call it.

    Raises:
        RuntimeError: if a process does not come, which is named.
        Exception: of the same kind as that of a process that has failed.
    """
    records = _records(own)
    asked = {tuple(sorted(record.keys() - {"shape", "dtype"})) for record in records}
    for rank, record in enumerate(records):
        if "failed" in record:
            raise_for(rank, record)
    if len(asked) > 1:
        msg = (
            "processes that share the data do different things: all have to make the same calls in "
            "the same order, with the same arguments."
        )
        raise_known(DisagreementError(msg))
    return records


def failure(error: BaseException) -> dict[str, str]:
    """What the others are told of an error, of which all know from then on."""
    _mark(error)
    return {"failed": _kind_of(error), "why": f"{type(error).__name__}: {error}"[:SAID]}


def is_known(error: BaseException) -> bool:
    """Whether the others know of an error already."""
    return getattr(error, TOLD, False)


def raise_for(rank: int, record: dict[str, Any]) -> NoReturn:
    """Raises what a process has said of its failure.

    Raises:
        Exception: of the same kind.
    """
    raise_known(_kinds[record["failed"]](f"process {rank} {ELSEWHERE}. {record['why']}"))


def _records(own: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of all processes, in few bytes and one round."""
    record = torch.zeros(ROOM, dtype=torch.uint8)
    text = json.dumps(own, ensure_ascii=False).encode()
    record[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    record = record.to(meeting_place())
    records = [torch.empty_like(record) for _ in range(dist.get_world_size())]
    with named_absence():
        dist.all_gather(records, record)
    return [json.loads(bytes(one.tolist()).rstrip(b"\0")) for one in records]


def meeting_place() -> torch.device:
    """Where tensors have to lie to be sent."""
    on_gpu = "nccl" in str(dist.get_backend())
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def agreed(value: Tensor | None, same: Sequence[Same]) -> tuple[torch.Size, torch.dtype]:
    """Shape and dtype of what the processes are about to sum; None: this one has nothing to add.

    Raises:
        DisagreementError: if they differ in shape, dtype, or what has to be the same; the message
            names the first difference and the process that has it.
    """
    own: dict[str, Any] = {"same": {one.what: _combined(one) for one in same}}
    if value is not None:
        own |= {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    records = exchange(own)
    shape, dtype = _common(records)
    for one in same:
        if len({record["same"].get(one.what) for record in records}) > 1:
            raise_known(DisagreementError(_first_difference(one)))
    return torch.Size(shape), getattr(torch, dtype)


def odd_one(values: Sequence[Any]) -> int:
    """The first process that does not say what most say; of two, the second.

    >>> odd_one([1, 2, 1]), odd_one([2, 1])
    (1, 1)
    """
    usual = max(Counter(values).items(), key=lambda item: (item[1], item[0] == values[0]))[0]
    return next(rank for rank, value in enumerate(values) if value != usual)


def compared(what: str, names: Sequence[str], digests: Sequence[int]) -> str:
    """In what these checksums differ among processes, in words; "" if they do not."""
    lengths = [record["num"] for record in exchange({"num": len(digests)})]
    if len(set(lengths)) > 1:
        rank = odd_one(lengths)
        return f"process {rank} has {lengths[rank]} {what}, another has {lengths[rank - 1]}"
    if not digests:
        return ""
    own = torch.tensor(digests, dtype=torch.int64, device=meeting_place())
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    with named_absence():
        dist.all_gather(rows, own)
    table = torch.stack(rows).cpu()
    differing = (table != table[0]).any(0).nonzero()
    if not len(differing):
        return ""
    first = int(differing[0])
    rank = odd_one(table[:, first].tolist())
    more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
    return f"process {rank} has another {names[first]} than the others{more}"


def refuse_unlike(what: str, value: Any) -> None:
    """Sees to it that all processes were given the same, told in a few characters.

    Raises:
        DisagreementError: if they were not; the message names the process.
    """
    given = (
        [record["given"] for record in exchange({"given": str(value)[:SAID]})] if several() else []
    )
    if len(set(given)) > 1:
        rank = odd_one(given)
        msg = (
            f"process {rank} has another {what} than the others: {given[rank]}, {given[rank - 1]}."
        )
        raise_known(DisagreementError(msg))


def _combined(one: Same) -> int:
    return zlib.crc32(repr(one.digests()).encode())


def _common(records: Sequence[dict[str, Any]]) -> tuple[list[int], str]:
    said = [(record["shape"], record["dtype"]) if "shape" in record else None for record in records]
    known = [one for one in said if one is not None]
    if not known:
        msg = "no process has anything to add: the data of all of them is empty."
        raise_known(ValueError(msg))
    texts = [f"{dtype} of shape {tuple(shape)}" for shape, dtype in known]
    if len(set(texts)) > 1:
        ranks = [rank for rank, one in enumerate(said) if one is not None]
        i = odd_one(texts)
        msg = (
            f"process {ranks[i]} has {texts[i]} where others have {texts[i - 1]}: "
            "all have to look at the same network, in the same dtype, and ask for the same."
        )
        raise_known(DisagreementError(msg))
    return known[0]


def _first_difference(one: Same) -> str:
    found = compared(one.what, one.names, one.digests()) or f"the {one.what} differ"
    return (
        f"processes that share the data differ in their {one.what}: {found}. "
        "All have to look at the same point, with the same seed."
    )


def _kind_of(error: BaseException) -> str:
    if is_out_of_memory(error):
        return MemoryError.__name__
    return next((c.__name__ for c in type(error).__mro__ if c.__name__ in _kinds), "RuntimeError")


def _mark(error: BaseException) -> None:
    setattr(error, TOLD, True)


def raise_known(error: Exception) -> NoReturn:
    """Raises an error of which all processes know already."""
    _mark(error)
    raise error

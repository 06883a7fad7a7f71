"""Sums over the processes of torch.distributed; the identity when there is one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hesscope.system.absence import named_absence
from hesscope.system.agreement import SAID, Same, agreed, exchange, meeting_place, several

T = TypeVar("T")


def num_processes() -> int:
    """How many processes share the data: 1 unless a process group has been initialised."""
    return dist.get_world_size() if several() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if several() else 0


def is_first_process() -> bool:
    """Whether this is the process that writes files: the only one, or rank 0."""
    return rank() == 0


def refuse_several(what: str) -> None:
    """For work on single examples or batches, of which each process has its own.

    Raises:
        ValueError: if there are several processes.
    """
    if several():
        msg = (
            f"{what} looks at single examples or batches, and those of other processes are not "
            "here; do it in one process."
        )
        raise ValueError(msg)


def sum_over_processes(
    value: Tensor | None, *, same: Sequence[Same] = (), device: torch.device | None = None
) -> Tensor:
    """The sum of `value` over all processes, the same on each; `value` itself is not changed.

    Args:
        value: what this process adds; None if it has no data. Then the sum lies on `device`.
        same: what has to be the same in all of them.
        device: where the sum is to lie; by default where the value lies.

    Raises:
        ValueError: if no process has anything.
        RuntimeError: if they disagree, or one has failed or does not come; it is named.
    """
    if not several():
        if value is None:
            msg = "there is nothing to add: the data is empty."
            raise ValueError(msg)
        return value
    shape, dtype = agreed(value, same)
    place = meeting_place()
    if value is None:
        total = torch.zeros(shape, dtype=dtype, device=place)
    else:
        total = value.detach().to(place, copy=True).contiguous()
    with named_absence():
        dist.all_reduce(total)
    home = device or (None if value is None else value.device)
    return total if home is None else total.to(home)


def sum_of_number(value: float) -> float:
    """The sum of a Python number over all processes, in float64."""
    if not several():
        return value
    return float(sum_over_processes(torch.full((), float(value), dtype=torch.float64)))


def from_first(value: float) -> float:
    """The number that the first process has, on all of them."""
    return from_process(0, value)


def from_process(source: int, value: T | None) -> T:
    """What one process has, on all of them.

    Raises:
        RuntimeError: if a process does not come; it is named.
    """
    box: list[Any] = [value]
    if several():
        exchange({})
        with named_absence():
            dist.broadcast_object_list(box, source, device=meeting_place())
    found: T = box[0]
    return found


def first_said(own: Sequence[str] | None) -> tuple[int, list[str]] | None:
    """What the first process that has anything to say says, in short, and which it is.

    >>> first_said(["all", "is well"]), first_said(None)
    ((0, ['all', 'is well']), None)
    """
    short = None if own is None else [text[:SAID] for text in own]
    said = exchange({"said": short}) if several() else [{"said": short}]
    return next(((r, one["said"]) for r, one in enumerate(said) if one["said"] is not None), None)


def sum_of_integer(value: int) -> int:
    """The sum of a Python integer over all processes, however large."""
    return sum(said["value"] for said in exchange({"value": value})) if several() else value


def joined(piece: Tensor, lengths: Sequence[int]) -> Tensor:
    """The pieces of all processes one below the other, of these lengths.

    Raises:
        RuntimeError: if a process does not come; it is named.
    """
    place = meeting_place()
    own = torch.zeros(max(lengths), *piece.shape[1:], dtype=piece.dtype, device=place)
    own[: len(piece)] = piece
    pieces = [torch.empty_like(own) for _ in lengths]
    with named_absence():
        dist.all_gather(pieces, own)
    cut = [each[:length] for each, length in zip(pieces, lengths, strict=True)]
    return torch.cat(cut).to(piece.device)


def smallest(value: float) -> float:
    """The smallest of the numbers that processes have."""
    if not several():
        return value
    return float(min(said["value"] for said in exchange({"value": value})))

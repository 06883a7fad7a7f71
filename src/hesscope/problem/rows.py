"""Tensors that are cut over processes, put together: all of them at once, in few messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hesscope.system.absence import named_absence

SMALL = 2**16  # bytes of a piece: smaller ones travel together, and are copied once more


def in_pieces(tensor: Tensor) -> bool:
    """Whether this process holds a piece of it."""
    return hasattr(tensor, "full_tensor") and hasattr(tensor, "placements")


def whole(tensor: Tensor) -> Tensor:
    """All of it; all processes call it."""
    found: Tensor = tensor.full_tensor() if in_pieces(tensor) else tensor  # type: ignore[attr-defined]
    return found


def put_together(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors in memory of their own; all processes call it.

    Those that are cut into rows, as fully_shard cuts them, in few messages that are under way at
    once.
    """
    found: dict[str, Tensor] = {}
    messages: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        if not _is_cut_into_rows(tensor):
            found[name] = whole(tensor).clone()
            continue
        mesh, size = tensor.device_mesh, _width(tensor) * tensor.element_size()  # type: ignore[attr-defined]
        kind = mesh, tensor.dtype, None if size < SMALL else name
        messages.setdefault(kind, []).append(name)
    with named_absence():
        sent = [_sent([tensors[name] for name in names]) for names in messages.values()]
        for _, work in sent:
            work.wait()
    for names, (table, _) in zip(messages.values(), sent, strict=True):
        start = 0
        for name in names:
            shape, width = tensors[name].shape, _width(tensors[name])
            rows = table if len(names) == 1 else table[:, start : start + width]
            found[name] = rows.reshape(-1, *shape[1:])[: len(tensors[name])]
            start += width
    return {name: found[name] for name in tensors}


def _is_cut_into_rows(tensor: Any) -> bool:
    """Whether each process of a line has some of the first rows, the next the next."""
    if not in_pieces(tensor) or [str(one) for one in tensor.placements] != ["S(0)"]:
        return False
    ranks = tensor.device_mesh.mesh.flatten().tolist()
    at_home: bool = tensor._local_tensor.device.type == tensor.device_mesh.device_type
    return at_home and ranks == sorted(ranks) and tensor.numel() > 0


def _width(tensor: Any) -> int:
    """Numbers in the largest piece."""
    rows: int = -(-len(tensor) // tensor.device_mesh.size())
    return rows * (tensor.numel() // len(tensor))


def _sent(tensors: Sequence[Any]) -> tuple[Tensor, Any]:
    """A table to which each process brings a row, and what is to be waited for."""
    pieces = []
    for tensor in tensors:
        piece = tensor._local_tensor.reshape(-1)
        missing = _width(tensor) - len(piece)
        pieces.append(torch.cat([piece, piece.new_zeros(missing)]) if missing else piece)
    own = pieces[0].contiguous() if len(pieces) == 1 else torch.cat(pieces)
    mesh = tensors[0].device_mesh
    table = own.new_empty(mesh.size(), len(own))
    group = mesh.get_group()
    return table, dist.all_gather_into_tensor(table.view(-1), own, group=group, async_op=True)

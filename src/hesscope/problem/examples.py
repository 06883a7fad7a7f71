"""The examples of a batch: how many there are, and a batch of some of them.

They lie along the first dimension of its tensors; lists may hold one entry an example (the boxes of
every picture), and a batch of graphs is cut graph by graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from hesscope.problem.contents import map_tensors, tensors_in, wanted_as
from hesscope.problem.layouts import num_rows, rows


def num_examples(content: Any) -> int:
    """The size of the first dimension that all tensors of a batch share.

    >>> import torch
    >>> num_examples({"x": torch.ones(3, 2), "boxes": [{"at": torch.ones(n)} for n in (1, 4, 2)]})
    3

    Raises:
        ValueError: if the tensors of the batch differ in it, so that examples cannot be told apart.
    """
    return _reading(content)[0]


def take(content: Any, index: slice | Tensor) -> Any:
    """The examples of a batch at these positions.

    Raises:
        ValueError: as for `num_examples`.
    """
    size, by_lists = _reading(content)
    return _taken(content, index, size, by_lists, top=True)


def _reading(content: Any) -> tuple[int, bool]:
    """The number of examples, and whether lists hold one entry for each.

    Raises:
        ValueError: if no reading gives all parts of the batch one size.
    """
    plain = _agreed(_sizes(content, by_lists=False))
    if plain is not None and not _holds_records(content):
        return plain, False
    by_lists = _agreed(_sizes(content, by_lists=True))
    if by_lists is not None:
        return by_lists, True
    if plain is not None:
        return plain, False
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(content)[:4])
    msg = (
        "cannot tell the examples of a batch apart: its tensors have shapes "
        f"{shapes or 'no tensor'} without a common first dimension. Pass `count` to say how many "
        "items a batch averages over."
    )
    raise ValueError(msg)


def _agreed(sizes: Iterator[int]) -> int | None:
    found = set(sizes)
    return found.pop() if len(found) == 1 and -1 not in found else None


def _sizes(content: Any, *, by_lists: bool, depth: int = 0) -> Iterator[int]:
    """The number of examples in each part of a batch; -1 where there are none to be told apart."""
    if isinstance(content, Tensor):
        yield num_rows(content)
    elif is_batch_of_graphs(content):
        yield int(content.num_graphs)
    elif hasattr(content, "edge_index"):  # one graph: its nodes are not independent
        yield -1
    elif by_lists and depth and _is_list_of_tensors(content):
        yield len(content)
    elif (parts := _parts(content)) is not None:
        for part in parts:
            yield from _sizes(part, by_lists=by_lists, depth=depth + 1)
    else:
        yield from map(num_rows, tensors_in(content))


def _taken(content: Any, index: slice | Tensor, size: int, by_lists: bool, *, top: bool) -> Any:
    if is_batch_of_graphs(content):
        return type(content).from_data_list(content.index_select(index))
    if type(content) in (list, tuple):
        listed = by_lists and not top and _is_list_of_tensors(content)
        if listed or (_are_words(content) and len(content) == size):
            return type(content)(_entries(content, index))
        return type(content)(_taken(part, index, size, by_lists, top=False) for part in content)
    if type(content) is dict:
        return {k: _taken(part, index, size, by_lists, top=False) for k, part in content.items()}
    return map_tensors(content, lambda tensor: _rows(tensor, index))


def _rows(tensor: Tensor, index: slice | Tensor) -> Tensor:
    return wanted_as(tensor, rows(tensor.detach(), index))


def _entries(entries: Any, index: slice | Tensor) -> Any:
    return entries[index] if isinstance(index, slice) else [entries[i] for i in index.tolist()]


def is_batch_of_graphs(content: Any) -> bool:
    """Whether it is what torch_geometric makes of a list of graphs: it can be taken apart again."""
    kind = type(content)
    return all(hasattr(kind, name) for name in ("num_graphs", "index_select", "from_data_list"))


def _parts(content: Any) -> list[Any] | None:
    if isinstance(content, Mapping):
        return list(content.values())
    return list(content) if isinstance(content, (list, tuple)) else None


def _is_list_of_tensors(content: Any) -> bool:
    return type(content) in (list, tuple) and bool(tensors_in(content))


def _are_words(content: Any) -> bool:
    return len(content) > 0 and all(isinstance(item, str) for item in content)


def _holds_records(content: Any) -> bool:
    """Whether a list inside has entries with the same keys: they are examples, not parts."""
    for part in _parts(content) or []:
        listed = type(part) in (list, tuple) and len(part) > 0
        if listed and all(isinstance(record, Mapping) for record in part):
            return len({frozenset(record) for record in part}) == 1
        if _holds_records(part):
            return True
    return False

"""The most bytes of tensors that are alive at once while something is computed, by counting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Follows the storage of every tensor that an operation returns until it is let go.

    Those that were there before are not counted, nor what an operation needs inside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.course: list[int] = []  # bytes after each storage that is new
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation's results."""
        before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _counts(t)}
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if _counts(tensor) and tensor.untyped_storage()._cdata not in before:
                self._note(tensor.untyped_storage())
        return results

    def _note(self, storage: torch.UntypedStorage) -> None:
        known = self._alive.get(storage._cdata)
        if known is not None and not known[0].expired():
            return
        self._alive = {k: kept for k, kept in self._alive.items() if not kept[0].expired()}
        self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.course.append(sum(size for _, size in self._alive.values()))


def _counts(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided


def bytes_in_course(work: Callable[[], object]) -> list[int]:
    """Bytes that are alive in the course of `work`, over those before, whenever some are new.

    >>> bytes_in_course(lambda: torch.ones(1000).add(1).mul(2))  # of 4 bytes each
    [4000, 8000, 8000]
    """
    with Alive() as alive:
        work()
    return alive.course or [0]


def most_bytes(work: Callable[[], object]) -> int:
    """The most of them."""
    return max(bytes_in_course(work))

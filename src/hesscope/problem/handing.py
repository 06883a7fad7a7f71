"""Hands batches to the user's code so that it can write into them without any later harm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from hesscope.problem.contents import map_tensors, tensors_in
from hesscope.problem.data import Batch


class Handing:
    """Each call gets containers of its own, so labels may be popped and keys may be set.

    Tensors are shared unless the model or the loss writes into them in place: that is seen at the
    first call, which gets copies, and then all calls get copies.
    """

    def __init__(self) -> None:
        self.writes: bool | None = None  # not known before the first call

    @contextmanager
    def content(self, batch: Batch) -> Iterator[Any]:
        """The batch as the user's code gets it.

        Raises:
            ValueError: if it writes into this batch in place, though it did not into the first.
        """
        copied = self.writes is not False
        content = map_tensors(batch.content, Tensor.clone if copied else Tensor.detach)
        before = [(tensor, tensor._version) for tensor in tensors_in(content)]
        yield content
        changed = any(tensor._version != version for tensor, version in before)
        if copied:
            self.writes = bool(self.writes) or changed
        elif changed:
            msg = (
                f"the model or the loss writes into batch {batch.index} in place, unlike into the "
                "first, so its data is no longer what it was. Replace in-place operations on "
                "inputs, such as x.mul_(2), by x = x * 2, and read the data again."
            )
            raise ValueError(msg)

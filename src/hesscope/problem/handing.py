"""Hands batches to the user's code so that it can write into them without any later harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch._C._functorch import get_interpreter_stack

from hesscope.problem.contents import copied, describe, map_tensors, shared, tensors_in
from hesscope.problem.data import Batch
from hesscope.problem.layouts import same


def on_a_copy(count: Callable[[Any], float], name: str) -> Callable[[Any], float]:
    """The same count, of containers of its own: `unpack` may pop what it takes.

    It raises ValueError where `count` is not made for what it is called with, which has this name.
    """

    def counted(content: Any) -> float:
        try:
            return count(map_tensors(content, shared))
        except (TypeError, AttributeError, LookupError) as error:
            msg = (
                f"`count` fails on a {describe(content)}: {type(error).__name__}: {error}. It is "
                f"called with the {name}: count=lambda {name}: ..."
            )
            raise ValueError(msg) from error

    return counted


class Handing:
    """Each call gets containers of its own, so labels may be popped and keys may be set.

    Tensors are shared unless the model or the loss writes into them in place: that is seen at the
    first call, which gets copies, and then all calls get copies.
    """

    def __init__(self) -> None:
        self.writes: bool | None = None  # not known before the first call
        self.differentiates = False  # whether the loss takes derivatives by its inputs

    @contextmanager
    def content(self, batch: Batch) -> Iterator[Any]:
        """The batch as the user's code gets it.

        Raises:
            ValueError: if it writes into this batch in place, though it did not into the first.
        """
        copies = self.writes is not False
        content = map_tensors(batch.content, self._copied if copies else self._shared)
        before = [(tensor, tensor._version) for tensor in tensors_in(content)]
        yield content
        changed = any(tensor._version != version for tensor, version in before)
        if copies:
            kept = zip(before, tensors_in(batch.content), strict=True)
            changed = changed or not all(same(tensor, own) for (tensor, _), own in kept)
            self.writes = bool(self.writes) or changed
        elif changed:
            msg = (
                f"the model or the loss writes into batch {batch.index} in place, unlike into the "
                "first, so its data is no longer what it was. Replace in-place operations on "
                "inputs, such as x.mul_(2), by x = x * 2, and read the data again."
            )
            raise ValueError(msg)

    def _copied(self, tensor: Tensor) -> Tensor:
        return self._wanted(copied(tensor))

    def _shared(self, tensor: Tensor) -> Tensor:
        return self._wanted(shared(tensor))

    def _wanted(self, tensor: Tensor) -> Tensor:
        if not self.differentiates or get_interpreter_stack():
            return tensor
        return tensor.requires_grad_(tensor.is_floating_point() or tensor.is_complex())

"""Which operations of a forward pass draw random numbers, and in which modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hesscope.checks.state import State


def what_draws(state: State) -> list[str]:
    """The operations of torch that draw, and the innermost module around each, in words.

    Those of NumPy and of Python are not seen. Costs one forward pass of the first batch.
    """
    opened = _open_modules(state.modules())
    with state.problem.evaluation() as e, opened as open_ones, _Draws(open_ones) as seen:
        e.finite_loss(state.first_batch())
    return list(dict.fromkeys(seen.found))


class _Draws(TorchDispatchMode):
    def __init__(self, open_ones: list[str]) -> None:
        super().__init__()
        self.open_ones = open_ones
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            name = func.overloadpacket.__name__.rstrip("_")
            place = f" in {self.open_ones[-1]}" if self.open_ones else ""
            self.found.append(f"{name}{place}")
        return func(*args, **(kwargs or {}))


@contextmanager
def _open_modules(modules: list[tuple[str, nn.Module]]) -> Iterator[list[str]]:
    """The modules whose forward is under way, the innermost last."""
    open_ones: list[str] = []

    def enters(name: str) -> Any:
        return lambda *_: open_ones.append(name)

    def leaves(*_: Any) -> None:
        open_ones.pop()

    handles = []
    for name, module in modules:
        if not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
            kind = type(module).__name__
            handles.append(module.register_forward_pre_hook(enters(f"{name} ({kind})")))
            handles.append(module.register_forward_hook(leaves))
    try:
        yield open_ones
    finally:
        for handle in handles:
            handle.remove()

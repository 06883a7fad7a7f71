"""What modules keep outside parameters and buffers: remembered, and put back after a forward pass.

A dynamic rotary embedding remembers the longest sequence, a recurrent block its last state, a cache
its keys: plain attributes that change what the next evaluation gives, and belong to the user.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Parameters, buffers, modes, hooks, and the weights of recurrent layers have their own keepers.
ELSEWHERE = frozenset(vars(nn.Module())) | {"_flat_weights"}
DEPTH = 4  # of functions within functions that are searched for modules


class Attributes:
    """The plain attributes of modules as they are now; lists, dicts, sets and tensors by content.

    Objects of other classes are remembered by identity: what changes inside of them is not seen.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = tuple(modules)
        self._kept = [(vars(module), _plain(vars(module))) for module in self.modules]
        self._ids = [_ids(now) for now, _ in self._kept]
        self._contents = [
            c for _, before in self._kept for _, c in before.values() if c is not None
        ]

    def restore(self) -> None:
        """Puts back what has changed, and nothing else."""
        for content in self._contents:
            content.restore()
        for i, (now, before) in enumerate(self._kept):
            if _ids(now) == self._ids[i]:  # the usual case, for hundreds of modules in every pass
                continue
            for name in [n for n in now if n not in before and n not in ELSEWHERE]:
                del now[name]
            for name, (value, _) in before.items():
                if now.get(name, now) is not value:
                    now[name] = value
            self._ids[i] = _ids(now)


class Structure:
    """The submodules and hooks of modules as they are now.

    A forward pass may replace a submodule, or register hooks and remember in an attribute that it
    has: the attribute put back alone, the hooks would be there twice after the next pass.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._kept = [
            (value, value.copy(), _ids(value))
            for module in modules
            for value in vars(module).values()
            if type(value) is OrderedDict or value is module.__dict__["_modules"]
        ]

    def restore(self) -> None:
        """Puts back what has changed, and nothing else."""
        for now, before, ids in self._kept:
            if (now or before) and _ids(now) != ids:
                now.clear()
                now.update(before)


def modules_behind(function: Any, depth: int = DEPTH) -> Iterator[nn.Module]:
    """The modules that a function reaches: closure, defaults, globals, a partial, a method's self.

    >>> layer = nn.Linear(1, 1)
    >>> next(modules_behind(lambda x: layer(x))) is layer
    True
    """
    if isinstance(function, nn.Module):
        yield from function.modules()
        return
    if depth == 0:
        return
    if isinstance(function, partial):
        held: list[Any] = [function.func, *function.args, *function.keywords.values()]
    elif isinstance(function, (list, tuple)):
        held = list(function)
    elif isinstance(function, dict):
        held = list(function.values())
    else:
        cells = getattr(function, "__closure__", None) or ()
        held = [cell.cell_contents for cell in cells if _is_filled(cell)]
        held += getattr(function, "__defaults__", None) or ()
        held += _globals_of(function)
        held += [getattr(function, "__self__", None), getattr(function, "__wrapped__", None)]
    for item in held:
        if item is not None and not isinstance(item, (str, bytes, Tensor)):
            yield from modules_behind(item, depth - 1)


def _globals_of(function: Any) -> list[Any]:
    """The modules, and the functions of the same file, that a function names."""
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    around = getattr(function, "__globals__", {})
    named = [around[name] for name in names if name in around]
    return [
        item
        for item in named
        if isinstance(item, nn.Module) or getattr(item, "__globals__", None) is around
    ]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is bound later
        return False


class _List:
    def __init__(self, value: list[Any]) -> None:
        self.value, self.copy = value, list(value)

    def restore(self) -> None:
        if len(self.value) != len(self.copy) or any(map(_differ, self.value, self.copy)):
            self.value[:] = self.copy


class _Dict:
    def __init__(self, value: dict[Any, Any] | set[Any]) -> None:
        self.value, self.copy = value, value.copy()

    def restore(self) -> None:
        if isinstance(self.value, dict) and isinstance(self.copy, dict):
            same = list(self.value) == list(self.copy)
            if same and not any(map(_differ, self.value.values(), self.copy.values())):
                return
        elif self.value == self.copy:
            return
        self.value.clear()
        self.value.update(self.copy)


class _Content:
    def __init__(self, value: Tensor) -> None:
        self.value, self.version, self.copy = value, value._version, value.detach().clone()

    def restore(self) -> None:
        if self.value._version != self.version:
            with torch.no_grad():
                self.value.copy_(self.copy)
            self.version = self.value._version


def _plain(attributes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (value, _content(value))
        for name, value in attributes.items()
        if name not in ELSEWHERE
    }


def _ids(attributes: dict[str, Any]) -> tuple[int, ...]:
    """Which objects a module holds, in order; those that it held before live on, in `_kept`."""
    return (*map(id, attributes), *map(id, attributes.values()))


def _content(value: Any) -> _List | _Dict | _Content | None:
    if type(value) is list:
        return _List(value)
    if type(value) in (dict, set):
        return _Dict(value)
    if isinstance(value, Tensor) and not (value.is_inference() or value.requires_grad):
        return _Content(value)
    return None


def _differ(a: object, b: object) -> bool:
    return a is not b

"""What modules keep outside parameters and buffers: remembered, and put back after a forward pass.

A dynamic rotary embedding remembers the longest sequence, a recurrent block its last state, a cache
its keys: plain attributes that change what the next evaluation gives, and belong to the user.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

# Parameters, buffers, modes, hooks, and the weights of recurrent layers have their own keepers.
ELSEWHERE = frozenset(vars(nn.Module())) | {"_flat_weights"}
DEPTH = 4  # of functions within functions that are searched for modules


T = TypeVar("T")


class Attributes:
    """The plain attributes of modules as they are now; lists, dicts, sets and tensors by content.

    Objects of other classes are remembered by identity: what changes inside of them is not seen.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = tuple(modules)
        self._kept = [(vars(module), _plain(vars(module))) for module in self.modules]

    def restore(self) -> None:
        """Puts back what has changed, and nothing else."""
        for now, before in self._kept:
            for name in [n for n in now if n not in before and n not in ELSEWHERE]:
                del now[name]
            for name, (value, content) in before.items():
                if now.get(name, now) is not value:
                    now[name] = value
                if content is not None:
                    content.restore()


class Structure:
    """The submodules and hooks of modules as they are now.

    A forward pass may replace a submodule, or register hooks and remember in an attribute that it
    has: the attribute put back alone, the hooks would be there twice after the next pass.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._kept = [
            (value, value.copy())
            for module in modules
            for value in vars(module).values()
            if type(value) is OrderedDict or value is module.__dict__["_modules"]
        ]

    def restore(self) -> None:
        """Puts back what has changed, and nothing else."""
        for now, before in self._kept:
            if len(now) != len(before) or any(now.get(key) is not before[key] for key in before):
                now.clear()
                now.update(before)


def modules_beside(function: Any, model: nn.Module) -> tuple[nn.Module, ...]:
    """The modules behind a function that are none of the model's own."""
    own = set(model.modules())
    return tuple(module for module in dict.fromkeys(modules_behind(function)) if module not in own)


def modules_behind(function: Any) -> Iterator[nn.Module]:
    """The modules that a function reaches, and those inside of them.

    >>> layer = nn.Linear(1, 1)
    >>> next(modules_behind(lambda x: layer(x))) is layer
    True
    """
    for module in things_behind(function, nn.Module):
        yield from module.modules()


def things_behind(function: Any, kind: type[T], depth: int = DEPTH) -> Iterator[T]:
    """What a function reaches: by closure, defaults, globals, a partial, a method's self."""
    if isinstance(function, kind):
        yield function
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
        held += _globals_of(function, kind)
        held += [getattr(function, "__self__", None), getattr(function, "__wrapped__", None)]
    for item in held:
        if item is not None and not isinstance(item, (str, bytes, Tensor)):
            yield from things_behind(item, kind, depth - 1)


def _globals_of(function: Any, kind: type) -> list[Any]:
    """The things of a kind, and the functions of the same file, that a function names."""
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    around = getattr(function, "__globals__", {})
    named = [around[name] for name in names if name in around]
    return [
        item
        for item in named
        if isinstance(item, kind) or getattr(item, "__globals__", None) is around
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

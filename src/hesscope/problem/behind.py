"""What a function of the user reaches: modules whose mode and buffers it uses, and own state."""

from __future__ import annotations

import sys
import types
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from hesscope.problem.contents import CLOSED

DEPTH = 5  # of functions and objects within functions that are searched
MANY = 1000  # entries: what those of a longer container hold is data, and not searched
OF_OTHERS = (sys.stdlib_module_names - {"types", "collections", "__main__"}) | {
    "torch",
    "numpy",
    "hesscope",
}


def reached_by(function: Any, without: Any = None) -> list[Any]:
    """All that a function reaches but one thing, each once; modules are not looked into.

    By its closure, defaults, the globals that it names, a partial, a method's self, and what the
    objects and containers there hold.

    >>> layer, seen = nn.Linear(1, 1), []
    >>> found = reached_by(lambda x: seen.append(layer(x)))
    >>> layer in found, any(thing is seen for thing in found)
    (True, True)
    """
    seen: dict[int, Any] = {}
    open_ones: deque[tuple[Any, int]] = deque([(function, DEPTH)])
    while open_ones:
        thing, depth = open_ones.popleft()
        if thing is None or thing is without or id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if depth and not isinstance(thing, (nn.Module, Tensor)):
            open_ones.extend((part, depth - 1) for part in _held_by(thing))
    return list(seen.values())


def modules_in(things: Iterable[Any]) -> list[nn.Module]:
    """The modules among them, with those inside, each once."""
    roots = [thing for thing in things if isinstance(thing, nn.Module)]
    return list(dict.fromkeys(module for root in roots for module in root.modules()))


def _held_by(thing: Any) -> Iterable[Any]:
    if isinstance(thing, partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, types.MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, types.FunctionType):
        known = str(thing.__module__).partition(".")[0] in OF_OTHERS - {"hesscope"}
        return () if known else _held_by_function(thing)
    if isinstance(thing, (list, tuple, set, deque)):
        return list(thing) if len(thing) <= MANY else ()
    if isinstance(thing, dict):
        return list(thing.values()) if len(thing) <= MANY else ()
    if isinstance(thing, CLOSED) or is_of_others(thing):
        return ()
    call = getattr(type(thing), "__call__", None)  # noqa: B004  what it reaches, not whether
    return [*getattr(thing, "__dict__", {}).values(), call]


def is_of_others(thing: Any) -> bool:
    """Whether its class is at home in torch, NumPy or Python's own library."""
    return type(thing).__module__.partition(".")[0] in OF_OTHERS


def _held_by_function(function: types.FunctionType) -> Iterable[Any]:
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    wrapped = getattr(function, "__wrapped__", None)
    return [*cells, *defaults, *_globals_of(function), wrapped]


def _globals_of(function: types.FunctionType) -> list[Any]:
    """What a function names of the file that it is in; of functions, those of that file."""
    around = function.__globals__
    named = [around[name] for name in function.__code__.co_names if name in around]
    foreign = (types.FunctionType, types.ModuleType, type)
    return [
        thing
        for thing in named
        if not isinstance(thing, foreign) or getattr(thing, "__globals__", None) is around
    ]


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is bound later
        return False

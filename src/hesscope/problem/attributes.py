"""What modules keep outside parameters and buffers: remembered, and put back after a forward pass.

A dynamic rotary embedding remembers the longest sequence, a recurrent block its last state, a cache
its keys: plain attributes that change what the next evaluation gives, and belong to the user.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hesscope.problem.behind import is_of_others
from hesscope.problem.contents import CLOSED

# Parameters, buffers, modes, hooks, and the weights of recurrent layers have their own keepers.
ELSEWHERE = frozenset(vars(nn.Module())) | {"_flat_weights"}
DEPTH = 4  # of containers and objects within each other that are remembered
MANY = 1000  # entries of a container: what those of a longer one hold is not remembered
LARGE = 100_000  # entries of a tensor: a larger one inside of something else is not remembered


class Attributes:
    """The plain attributes of modules as they are now, and what the loss holds besides.

    Lists, dicts, sets, queues, tensors, generators and the attributes of objects by content, also
    inside of each other; of objects of torch and of Python's library, only which they are.
    """

    def __init__(self, modules: Iterable[nn.Module], held: Iterable[Any] = ()) -> None:
        self.modules = tuple(modules)
        self._keepers: dict[int, _Keeper] = {}
        for module in self.modules:
            own = {k: v for k, v in vars(module).items() if k not in ELSEWHERE}
            self._keepers[id(module)] = _Attributes(vars(module), own)
            self._remember(own.values(), DEPTH)
        self._remember(held, DEPTH - 1)

    def restore(self) -> None:
        """Puts back what has changed, and nothing else."""
        for keeper in self._keepers.values():
            keeper.restore()

    def _remember(self, values: Iterable[Any], depth: int) -> None:
        for value in values:
            if id(value) in self._keepers or depth == 0:
                continue
            keeper = _keeper_of(value, LARGE if depth < DEPTH else None)
            if keeper is None:
                continue
            self._keepers[id(value)] = keeper
            self._remember(keeper.inside(), depth - 1)


class Structure:
    """The submodules and hooks of modules as they are now.

    A forward pass may replace a submodule, or register hooks and remember in an attribute that it
    has: the attribute put back alone, the hooks would be there twice after the next pass.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._kept = [
            (value, value.copy(), _ids(value))
            for module in modules
            if not isinstance(module, torch.jit.ScriptModule)  # compiled: none of them can change
            for value in vars(module).values()
            if type(value) is OrderedDict or value is module.__dict__["_modules"]
        ]

    def restore(self) -> None:
        """Puts back what has changed, and nothing else."""
        for now, before, ids in self._kept:
            if (now or before) and _ids(now) != ids:
                now.clear()
                now.update(before)


class _Keeper(Protocol):
    def restore(self) -> None: ...

    def inside(self) -> Iterable[Any]:
        """What lies inside, to be remembered, too."""
        ...


def can_change(value: Any) -> bool:
    """Whether a value has a content that can be remembered."""
    return _keeper_of(value, LARGE) is not None


def _keeper_of(value: Any, largest: int | None) -> _Keeper | None:
    """What remembers the content of a value; None where there is nothing that can change."""
    kind = type(value)
    if kind in _FIXED:
        return None
    if isinstance(value, Tensor):
        fixed = value.is_inference() or value.requires_grad or value.layout != torch.strided
        small = largest is None or value.numel() <= largest
        return _Content(value) if small and not fixed else None
    if kind is torch.Generator:
        return _Generator(value)
    if kind in (list, deque):
        return _List(value)
    if kind in (dict, OrderedDict, defaultdict, Counter, set):
        return _Dict(value)
    if isinstance(value, CLOSED) or is_of_others(value):
        return None
    own = getattr(value, "__dict__", None)
    return _Attributes(own, dict(own), value) if type(own) is dict else None


_FIXED = {int, float, str, bool, type(None), torch.dtype, torch.device}  # the usual ones


class _Attributes:
    """Names and values of a module or an object, which stays alive as long as this."""

    def __init__(self, now: dict[str, Any], before: dict[str, Any], owner: Any = None) -> None:
        self.now, self.before, self.owner = now, before, owner
        self._ids = _ids(now)

    def inside(self) -> Iterable[Any]:
        return self.before.values()

    def restore(self) -> None:
        now, before = self.now, self.before
        if _ids(now) == self._ids:  # the usual case, for hundreds of modules in every pass
            return
        module = self.owner is None
        for name in [n for n in now if n not in before and not (module and n in ELSEWHERE)]:
            del now[name]
        for name, value in before.items():
            if now.get(name, now) is not value:
                now[name] = value
        self._ids = _ids(now)


def _ids(attributes: dict[str, Any]) -> tuple[int, ...]:
    """Which objects are held, in order; those that were held before live on, in `before`."""
    return (*map(id, attributes), *map(id, attributes.values()))


class _List:
    def __init__(self, value: list[Any] | deque[Any]) -> None:
        self.value, self.copy = value, list(value)

    def inside(self) -> Iterable[Any]:
        return self.copy if len(self.copy) <= MANY else ()

    def restore(self) -> None:
        if len(self.value) != len(self.copy) or any(map(_differ, self.value, self.copy)):
            self.value.clear()
            self.value.extend(self.copy)


class _Dict:
    def __init__(self, value: dict[Any, Any] | set[Any]) -> None:
        self.value, self.copy = value, value.copy()

    def inside(self) -> Iterable[Any]:
        few = len(self.copy) <= MANY
        return self.copy.values() if few and isinstance(self.copy, dict) else ()

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

    def inside(self) -> Iterable[Any]:
        return ()

    def restore(self) -> None:
        if self.value._version != self.version:
            with torch.no_grad():
                self.value.copy_(self.copy)
            self.version = self.value._version


class _Generator:
    """A generator of random numbers of the model's own: every evaluation draws the same."""

    def __init__(self, value: torch.Generator) -> None:
        self.value, self.state = value, value.get_state()

    def inside(self) -> Iterable[Any]:
        return ()

    def restore(self) -> None:
        self.value.set_state(self.state)


def _differ(a: object, b: object) -> bool:
    return a is not b

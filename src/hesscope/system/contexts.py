"""The door of every public call: contexts that users stand in do not reach hesscope's arithmetic.

Under `inference_mode`, `no_grad`, `autocast`, another default device or NumPy errors that raise, a
public call computes what it computes outside of them. The user's own code, which it calls, finds
the default device and NumPy's errors as its author left them; gradients are recorded, and autocast
is off, as everywhere in a look. The default dtype belongs to all threads of the process, so it is
never changed: hesscope's own tensors name theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import wraps
from inspect import isfunction
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from hesscope.system import interrupts

P = ParamSpec("P")
T = TypeVar("T")

CPU = torch.device("cpu")
ERRORS: dict[str, Any] = {
    "divide": "warn",
    "over": "warn",
    "under": "ignore",
    "invalid": "warn",
}  # NumPy's own
OPERATORS = ("matmul", "rmatmul", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "neg")
OTHERS = ("init", "post_init", "str", "repr", "call", "getitem")
SPECIAL = {f"__{name}__" for name in (*OPERATORS, *OTHERS)}
MARK = "__behind_the_door__"


@dataclass(frozen=True)
class _Users:
    """What of the user's surroundings is put aside, and given back to the user's code."""

    device: torch.device
    errors: dict[str, Any]  # of NumPy


class _Thread(threading.local):
    inside = False  # whether hesscope's own code runs in this thread
    users: _Users | None = None  # None where they are plain


_thread = _Thread()


def public(function: Callable[P, T]) -> Callable[P, T]:
    """The function as users call it, from whatever contexts; 0.1 µs where hesscope calls it."""

    @wraps(function)
    def outer(*args: P.args, **kwargs: P.kwargs) -> T:
        if _thread.inside:
            return function(*args, **kwargs)
        return _entered(function, *args, **kwargs)

    setattr(outer, MARK, True)
    return outer


def public_methods(cls: type[T]) -> type[T]:
    """The class, with all that users call of its own methods and properties behind the door."""
    for name, member in list(vars(cls).items()):
        if name.startswith("_") and name not in SPECIAL:
            continue
        if isfunction(member):
            setattr(cls, name, public(member))
        elif isinstance(member, (classmethod, staticmethod)):
            setattr(cls, name, type(member)(public(member.__func__)))
        elif isinstance(member, property) and member.fget is not None:
            setattr(cls, name, member.getter(public(member.fget)))
    return cls


def users_methods(cls: type[T]) -> type[T]:
    """The class of a user, whose own methods run as the user's code when hesscope calls them."""
    for name, member in list(vars(cls).items()):
        if isfunction(member) and not name.startswith("_"):
            setattr(cls, name, users(member))
    return cls


def users(function: Callable[P, T]) -> Callable[P, T]:
    """The user's function, for `as_users` whoever calls it."""

    @wraps(function)
    def outer(*args: P.args, **kwargs: P.kwargs) -> T:
        return as_users(function, *args, **kwargs)

    return outer


def as_users(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the user's code gives, in the user's own surroundings; signals end it at once."""
    if not _thread.inside:
        return interrupts.interruptible(function, *args, **kwargs)
    users = _thread.users
    try:
        _thread.inside = False
        if users is None:
            return interrupts.interruptible(function, *args, **kwargs)
        with np.errstate(**users.errors), _default(users.device):
            return interrupts.interruptible(function, *args, **kwargs)
    finally:
        _thread.inside, _thread.users = True, users


def derivatives_on(stack: ExitStack, *devices: str) -> None:
    """Enters what derivatives need: no inference mode, gradients recorded, autocast off."""
    stack.enter_context(torch.inference_mode(mode=False))
    stack.enter_context(torch.enable_grad())
    for kind in {"cpu", *devices}:
        stack.enter_context(torch.autocast(kind, enabled=False))


def _entered(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's value in surroundings that are plain, made so if need be."""
    before = _thread.users
    try:
        _thread.inside, _thread.users = True, None
        if _plain():
            return function(*args, **kwargs)
        with interrupts.deferred(), ExitStack() as stack:
            _thread.users = _Users(torch.empty(0).device, dict(np.geterr()))
            derivatives_on(stack, *_autocast_kinds())
            if torch.is_anomaly_enabled():  # its look for NaN fails on gradients in batches
                stack.enter_context(torch.autograd.set_detect_anomaly(True, check_nan=False))
            stack.enter_context(np.errstate(**ERRORS))
            stack.enter_context(_default(CPU))
            return interrupts.interruptible(function, *args, **kwargs)
    finally:
        _thread.inside, _thread.users = False, before


def _default(device: torch.device) -> AbstractContextManager[Any]:
    """Makes it the default where it is not: inside, every call of torch takes a little longer."""
    return nullcontext() if torch.empty(0).device == device else device


def _plain() -> bool:
    """Whether there is nothing to put aside; asks what is cheap."""
    return (
        torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and not torch.is_anomaly_enabled()
        and not _autocast_kinds()
        and torch.empty(0).device == CPU
        and np.geterr() == ERRORS
    )


def _autocast_kinds() -> list[str]:
    return [kind for kind in _KINDS if torch.is_autocast_enabled(kind)]


def _known_to_autocast(kind: str) -> bool:
    try:
        torch.is_autocast_enabled(kind)
    except RuntimeError:  # torch of this version knows no such device
        return False
    return True


_KINDS = [kind for kind in ("cpu", "cuda", "mps", "xpu") if _known_to_autocast(kind)]

"""Functions of torch written in Python: their parts are replaced where the whole is not."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch.nn import functional as F

OPENED = (F.multi_head_attention_forward,)


def opened(func: Any) -> Callable[..., Any]:
    """The same function, which does not hand itself to the mode that is on: its parts do.

    For arguments of no class that overrides torch's functions. The names in it are looked up as
    they are now.
    """
    names = {**func.__globals__, "has_torch_function": _never}
    copy = FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy


def _never(*_: Any) -> bool:
    return False

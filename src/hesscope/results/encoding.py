"""Results as JSON and tensors, and back; nothing but hesscope's own classes is ever made."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import types
import typing
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from hesscope import results
from hesscope.results.result import Result

_PACKAGE = __name__.partition(".")[0]


class UnknownResultError(ValueError):
    """A record names a class that this hesscope does not know."""


def encode(value: Any, arrays: dict[str, Tensor], key: str) -> Any:
    """JSON for `value`; tensors go to `arrays` under the path at which they stand.

    Raises:
        ValueError: if the value is not data.
    """
    if isinstance(value, Tensor):
        key = key if key not in arrays else f"{key}#{len(arrays)}"
        arrays[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        items = [encode(item, arrays, f"{key}.{i}") for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {
            "dict": [[name, encode(item, arrays, f"{key}.{name}")] for name, item in value.items()]
        }
    if isinstance(value, Result) and dataclasses.is_dataclass(value):
        return {
            "class": type(value).__name__,
            "fields": {name: encode(x, arrays, f"{key}.{name}") for name, x in _fields(value)},
        }
    msg = f"cannot save {key}, a {type(value).__name__}; results hold numbers, text and tensors."
    raise ValueError(msg)


def decode(body: Any, arrays: dict[str, Tensor]) -> Any:
    """The value behind the JSON that `encode` made.

    Raises:
        UnknownResultError: if it holds a class that is not known.
    """
    if isinstance(body, list):
        return [decode(item, arrays) for item in body]
    if not isinstance(body, dict):
        return body
    if "tensor" in body:
        return arrays[body["tensor"]]
    if "number" in body:
        return float(body["number"])
    if "tuple" in body:
        return tuple(decode(item, arrays) for item in body["tuple"])
    if "dict" in body:
        return {name: decode(item, arrays) for name, item in body["dict"]}
    kind = _kind(body["class"])
    fields = {name: decode(item, arrays) for name, item in body["fields"].items()}
    if kind.__module__.startswith(f"{_PACKAGE}."):
        _check_types(kind, fields)
    return kind(**fields)


def _kind(name: str) -> type[Result]:
    """The class of results that has this name, wherever in hesscope it lives.

    A fresh process has not imported it yet: those of this room come first, then the public names
    of the package, whose list says where each one lives. Nothing else is ever looked up.

    Raises:
        UnknownResultError: if there is none.
    """
    if name not in Result.kinds:
        for module in pkgutil.iter_modules(results.__path__, f"{results.__name__}."):
            importlib.import_module(module.name)
    package = importlib.import_module(_PACKAGE)
    if name not in Result.kinds and name in package.__all__:
        getattr(package, name)
    if name not in Result.kinds:
        msg = (
            f"the record holds a {name!r}, which this version of hesscope does not know. If it is "
            "a class of your own, import it before you load."
        )
        raise UnknownResultError(msg)
    return Result.kinds[name]


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))


def _check_types(kind: type[Result], fields: dict[str, Any]) -> None:
    """Refuses values of other types than the class declares.

    Raises:
        TypeError: naming the first such field.
    """
    for name, hint in typing.get_type_hints(kind).items():
        if name in fields and not _fits(fields[name], hint):
            msg = f"{kind.__name__}.{name} is a {type(fields[name]).__name__}, not {hint}"
            raise TypeError(msg)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is what a type hint of a result says, at any depth."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inside)
    if origin is typing.Literal:
        return value in inside
    if origin is dict:
        return isinstance(value, dict)  # of whatever: facts and evidence
    if origin is tuple and inside[-1] is not Ellipsis:
        return (
            isinstance(value, tuple)
            and len(value) == len(inside)
            and all(map(_fits, value, inside))
        )
    if origin in (tuple, list):
        return isinstance(value, origin) and all(_fits(item, inside[0]) for item in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint is Any or not isinstance(hint, type) or isinstance(value, hint)

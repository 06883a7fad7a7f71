"""What a batch holds, whatever its class: its tensors, and a copy of it with others in their place.

Containers are rebuilt; objects of any other class are copied by their own protocol of copying, with
the new tensors put in the place of the old ones. What holds no tensor is shared, not copied.
"""

from __future__ import annotations

import copy
import dataclasses
import types
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import get_interpreter_stack
from torch.utils.data import DataLoader, Dataset

from hesscope.problem.layouts import num_rows, plain_parts
from hesscope.system.contents import as_bytes
from hesscope.system.memory import human

Change = Callable[[Tensor], Tensor]

DEPTH = 12  # of objects within objects that are searched for tensors
CLOSED = (
    str, bytes, int, float, complex, type(None), type, types.ModuleType, types.FunctionType,
    types.BuiltinFunctionType, types.MethodType, weakref.ref, torch.dtype, torch.device,
    torch.Generator, torch.Size, nn.Module, Dataset, DataLoader,
)  # fmt: skip


def map_tensors(content: Any, change: Change, dtype: torch.dtype | None = None) -> Any:
    """`content` with every tensor inside replaced by `change(tensor)`, at any depth.

    NumPy arrays in containers become tensors first: floating ones of `dtype`, integers int64. Those
    in attributes stay, for the code of their class counts on what they are.

    Raises:
        ValueError: if an object with tensors inside cannot be copied.
    """
    if isinstance(content, Tensor):
        return change(content)
    if _is_array(content):
        return change(_tensor(content, dtype))
    if type(content) is dict:
        return {key: map_tensors(item, change, dtype) for key, item in content.items()}
    if type(content) in (list, tuple):
        return type(content)(map_tensors(item, change, dtype) for item in content)
    if isinstance(content, tuple) and hasattr(content, "_fields"):
        return type(content)(*(map_tensors(item, change, dtype) for item in content))
    if isinstance(content, types.MappingProxyType):
        return types.MappingProxyType(map_tensors(dict(content), change, dtype))
    if isinstance(content, (*CLOSED, np.ndarray)):
        return content
    return _copied(content, change, dtype)


def tensors_in(content: Any) -> list[Tensor]:
    """All tensors inside a batch, in order."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(content, keep)
    return found


def _copied(thing: Any, change: Change, dtype: torch.dtype | None) -> Any:
    """An object of any class, with the tensors inside changed.

    Raises:
        ValueError: if it cannot be copied.
    """
    instead: dict[int, Any] = {}
    _search(thing, change, dtype, instead, set(), DEPTH)
    if not any(isinstance(new, Tensor) and id(new) != old for old, new in instead.items()):
        return thing
    try:
        return copy.deepcopy(thing, instead)  # takes from there what it finds by its id
    except Exception as error:
        msg = (
            f"a batch holds a {type(thing).__name__} with tensors inside that cannot be copied "
            f"({type(error).__name__}: {error}). Hand over what the model needs of it: a dict or a "
            "tuple of tensors."
        )
        raise ValueError(msg) from error


def _search(
    thing: Any,
    change: Change,
    dtype: torch.dtype | None,
    instead: dict[int, Any],
    open_ones: set[int],
    depth: int,
) -> bool:
    """Whether tensors lie inside; `instead` gets, by id, new tensors and all that holds none."""
    if isinstance(thing, (Tensor, np.ndarray)):
        tensor = thing if isinstance(thing, Tensor) else _tensor(thing, dtype)
        if id(thing) not in instead:  # one that occurs twice stays one
            instead[id(thing)] = change(tensor)
        return True
    if id(thing) in open_ones:  # a circle: copied with what it belongs to
        return True
    if depth == 0 or isinstance(thing, CLOSED) or id(thing) in instead:
        instead.setdefault(id(thing), thing)
        return False
    open_ones.add(id(thing))
    inside = [_search(part, change, dtype, instead, open_ones, depth - 1) for part in _parts(thing)]
    open_ones.remove(id(thing))
    if not any(inside) and type(thing) not in (list, dict, set, deque):  # these may be written to
        instead[id(thing)] = thing
    return any(inside)


def _parts(thing: Any) -> Iterator[Any]:
    """What an object holds; arrays only where it is a container or a dataclass."""
    held = list(thing.values()) if isinstance(thing, dict) else []
    if isinstance(thing, (list, tuple, set, frozenset, deque)):
        held = list(thing)
    attributes = _attributes(thing)
    if dataclasses.is_dataclass(thing):
        held += attributes
    else:
        yield from (item for item in attributes if not isinstance(item, np.ndarray))
    yield from (item for item in held if _is_array(item) or not isinstance(item, np.ndarray))


def _attributes(thing: Any) -> list[Any]:
    """The values of an object's own attributes, those in slots, too."""
    slots: list[str] = []
    for kind in type(thing).__mro__:
        names = kind.__dict__.get("__slots__", ())
        slots += [names] if isinstance(names, str) else names
    own = [name for name in slots if name not in ("__dict__", "__weakref__")]
    kept = list(getattr(thing, "__dict__", {}).values())
    return kept + [getattr(thing, name) for name in own if hasattr(thing, name)]


def _is_array(item: Any) -> bool:
    return isinstance(item, np.ndarray) and item.dtype.kind in "biuf"


def _tensor(array: np.ndarray[Any, Any], dtype: torch.dtype | None) -> Tensor:
    if array.dtype.kind in "iu":
        array = array.astype(np.int64)
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))  # torch wants both
    return tensor.to(dtype) if dtype is not None and array.dtype.kind == "f" else tensor


def to_device(content: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The batch on the device; floating NumPy arrays become tensors of the model's dtype.

    An object in which no tensor is seen is moved by its own method `to`, if it has one.
    """
    with torch.inference_mode(mode=False), torch.no_grad():
        moved = map_tensors(content, lambda tensor: _ordinary(tensor, device), dtype)
        if moved is content and not isinstance(content, CLOSED):
            method = getattr(content, "to", None)
            moved = method(device) if callable(method) and not tensors_in(content) else content
    return content if moved is None else moved


def _ordinary(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor without its graph; a copy if inference mode, which bars autograd, made it.

    One that its owner wants derivatives for (collocation points) goes on to require them.
    """
    wanted = tensor.requires_grad and tensor.is_leaf
    plain = tensor.clone() if tensor.is_inference() else tensor.detach()
    return plain.to(device).detach().requires_grad_(wanted)


def wanted_as(other: Tensor, tensor: Tensor) -> Tensor:
    """The tensor, requiring gradients if the other does; inside torch.func nobody can ask that."""
    asked = other.requires_grad and not get_interpreter_stack()
    return tensor.requires_grad_() if asked else tensor


def shared(tensor: Tensor) -> Tensor:
    """A tensor in the same memory, without a graph, that requires gradients if the other does."""
    return wanted_as(tensor, tensor.detach())


def copied(tensor: Tensor) -> Tensor:
    """A tensor in memory of its own, without a graph, that requires gradients as the other does."""
    return wanted_as(tensor, tensor.detach().clone())


def fingerprint(content: Any) -> int:
    """A 32-bit checksum of all tensors of a batch."""
    code = 0
    for tensor in tensors_in(content):
        code = zlib.crc32(repr((_shape(tensor), tensor.dtype)).encode(), code)
        for part in plain_parts(tensor.detach()):
            code = _checksum(part, code)
    return code


def _checksum(tensor: Tensor, code: int) -> int:
    return zlib.crc32(as_bytes(tensor).numpy().data, code) if tensor.numel() else code


def _shape(tensor: Tensor) -> tuple[Any, ...]:
    """Its sizes; of a nested tensor, which has none, those of its parts."""
    if tensor.is_nested:
        return num_rows(tensor), *(tuple(part.shape) for part in plain_parts(tensor))
    return tuple(tensor.shape)


def describe(content: Any, limit: int = 4) -> str:
    """The shapes and dtypes of a batch in a few words, for messages."""
    parts = [f"{str(t.dtype)[6:]} {_shape(t)}" for t in tensors_in(content)[:limit]]
    size = sum(t.element_size() * t.numel() for t in tensors_in(content))
    return f"{type(content).__name__} of {', '.join(parts) or 'no tensors'}, {human(size)}"

"""Weights that are cut over processes (fully_shard, tensor parallel), put together for a look.

Torch's sharded forward pass gathers weights in hooks and has no second derivative: its gradients
come without a graph. So the model is copied, without those hooks and with whole weights, which is
exact whatever its modules do. Each process then holds all weights once more.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

HOME = "torch.distributed"
OWN = ("_parameters", "_buffers", "_modules")
OLD = "FullyShardedDataParallel"


def is_sharded(model: nn.Module) -> bool:
    """Whether weights of it are in pieces, or would be after the next step.

    Raises:
        ValueError: if they are in the flat pieces of the older FSDP.
    """
    for module in model.modules():
        if type(module).__name__ == OLD and type(module).__module__.startswith(HOME):
            msg = (
                f"the model is wrapped by {OLD}, which keeps weights in flat pieces. Use "
                "torch.distributed.fsdp.fully_shard, or give a plain model with the weights of "
                "its full state dict."
            )
            raise ValueError(msg)
    tensors = [*model.parameters(), *model.buffers()]
    return any(map(_in_pieces, tensors)) or any(map(_original_class, model.modules()))


def whole_copy(model: nn.Module) -> nn.Module:
    """The model without the hooks of torch.distributed, each weight whole; all processes call it.

    Weights that are tied stay so. A later step of training does not move the copy.
    """
    known: dict[int, Any] = {}
    for parameter in model.parameters():
        whole = _whole(parameter.detach()).clone()
        known[id(parameter)] = nn.Parameter(whole, requires_grad=parameter.requires_grad)
    others = (value for module in model.modules() for value in vars(module).values())
    made = (value for value in others if isinstance(value, Tensor))  # by hooks, from weights
    for tensor in (*model.buffers(), *made):
        known[id(tensor)] = _whole(tensor.detach()).clone()
    kept = [pair for module in model.modules() for pair in _without_theirs(module)]
    for notes, _ in kept:
        known[id(notes)] = OrderedDict()
    with _original_classes(model):
        for notes, rest in kept:
            known[id(notes)].update(copy.deepcopy(rest, known))
        return copy.deepcopy(model, known)


def _in_pieces(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor") and hasattr(tensor, "placements")


def _whole(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.full_tensor() if _in_pieces(tensor) else tensor  # type: ignore[attr-defined]
    return whole


def _without_theirs(module: nn.Module) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    """Dictionaries of a module in which torch.distributed has something, and what else is there.

    Hooks are noted under one number in several of them.
    """
    notes = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, dict) and name not in OWN
    }
    hooks = {
        key
        for name, each in notes.items()
        for key, value in each.items()
        if "hooks" in name and _is_theirs(value)
    }
    found = []
    for name, each in notes.items():
        rest = {
            key: value
            for key, value in each.items()
            if not _is_theirs(value) and not ("hooks" in name and key in hooks)
        }
        if len(rest) < len(each):
            found.append((each, rest))
    return found


def _is_theirs(value: Any) -> bool:
    """Whether a function, method or object is at home in torch.distributed."""
    own = getattr(value, "__self__", value)
    places = getattr(value, "__module__", None), type(own).__module__
    return any(str(place).startswith(HOME) for place in places)


def _original_class(module: nn.Module) -> type | None:
    """What a module was before fully_shard gave it a class of its own; None if it did not."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FSDPModule", None)
    if kind is None or not isinstance(module, kind):
        return None
    original: type = type(module).__mro__[type(module)._orig_cls_mro_index]
    return original


@contextmanager
def _original_classes(model: nn.Module) -> Iterator[None]:
    """Inside, modules have the classes that they had before: those of fully_shard refuse copies."""
    changed = [(m, type(m), _original_class(m)) for m in model.modules()]
    try:
        for module, _, original in changed:
            if original is not None:
                module.__class__ = original
        yield
    finally:
        for module, own, _ in changed:
            module.__class__ = own

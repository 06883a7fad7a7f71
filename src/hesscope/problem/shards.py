"""Weights that are cut over processes (fully_shard, tensor parallel), put together for a look.

Torch's sharded forward pass gathers weights in hooks and has no second derivative: its gradients
come without a graph. So the model is copied without those hooks: with weights that are absent, for
products that bring them together block by block, and, once somebody asks for it, with whole ones,
which is exact whatever its modules do. Each process then holds all weights once more.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hesscope.problem.absent import Absent
from hesscope.problem.rows import in_pieces, put_together, whole
from hesscope.system.agreement import exchange, several

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
    return any(map(in_pieces, tensors)) or any(map(_original_class, model.modules()))


class Shards:
    """A model whose weights are cut over processes, without the hooks of torch.distributed.

    Its weights are those of the user's model at each time: a step of training moves them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._source = model
        self.bare = _copy(model, _absent)  # with all of its structure and none of its weights
        for name, parameter in self.bare.named_parameters():
            vars(parameter)["place"] = f"weight {name}"
        self._whole: nn.Module | None = None
        self._seen: list[tuple[int, int]] = []  # which tensors were put together

    @property
    def are_whole(self) -> bool:
        """Whether this process holds all weights."""
        return self._whole is not None

    @property
    def device(self) -> torch.device:
        """Where the pieces lie."""
        return next(self._source.parameters()).device

    def whole(self) -> nn.Module:
        """The model with whole weights, put together if they are not yet; then all call it."""
        seen = self._versions()
        if self._whole is None or seen != self._seen:
            if several():
                exchange({"weights": "all"})
            if self._whole is None:
                self._whole = _copy(self._source, _as_parameter)
            else:
                self._follow(self._whole)
            self._seen = seen
        return self._whole

    def let_go(self) -> None:
        """Forgets whole weights, until they are asked for again."""
        self._whole = None

    def bring(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Whole weights of these names, in tensors of their own; all processes call it."""
        own = dict(self._source.named_parameters())
        with torch.no_grad():
            return put_together({name: own[name].detach() for name in names})

    def refreshed(self) -> nn.Module:
        """The model without weights, with the buffers that the user's has now."""
        _write(self.bare.named_buffers(), dict(self._source.named_buffers()))
        return self.bare

    def _follow(self, model: nn.Module) -> None:
        _write(model.named_parameters(), dict(self._source.named_parameters()))
        _write(model.named_buffers(), dict(self._source.named_buffers()))

    def _versions(self) -> list[tuple[int, int]]:
        own = [*self._source.parameters(), *self._source.buffers()]
        pieces = (getattr(tensor, "_local_tensor", tensor) for tensor in own)
        return [(id(piece), 0 if piece.is_inference() else piece._version) for piece in pieces]


def _write(named: Iterable[tuple[str, Tensor]], source: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in named:
            tensor.copy_(whole(source[name].detach()))


def _absent(parameter: Tensor) -> Tensor:
    return Absent.like(parameter)


def _as_parameter(parameter: Tensor) -> Tensor:
    numbers = whole(parameter.detach()).clone()
    return nn.Parameter(numbers, requires_grad=parameter.requires_grad)


def _copy(model: nn.Module, weight: Callable[[Tensor], Tensor]) -> nn.Module:
    """The model without the hooks of torch.distributed, its weights as said; all call it.

    Weights that are tied stay so.
    """
    known: dict[int, Any] = {id(p): weight(p) for p in model.parameters()}
    others = (value for module in model.modules() for value in vars(module).values())
    made = (value for value in others if isinstance(value, Tensor))  # by hooks, from weights
    for tensor in (*model.buffers(), *made):
        known[id(tensor)] = whole(tensor.detach()).clone()
    kept = [pair for module in model.modules() for pair in _without_theirs(module)]
    for notes, _ in kept:
        known[id(notes)] = OrderedDict()
    with _original_classes(model):
        for notes, rest in kept:
            known[id(notes)].update(copy.deepcopy(rest, known))
        return copy.deepcopy(model, known)


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

"""What a loss depends on, as it was, and whether it is so still: asked before every product.

Nothing but the values tells for certain: `p.data.mul_(2)` moves neither the version of p nor its
place in memory. So objects, versions and places are looked at first, which reads no values, and
then all values, those of small tensors in one piece.
"""

from __future__ import annotations

from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn

from hesscope.problem.layouts import same
from hesscope.problem.point import Point

SMALL = 4_096  # entries: to copy fewer costs less than a call that compares them
VERSION, KIND = attrgetter("_version"), attrgetter("dtype", "device")
KINDS = ("_parameters", "_buffers", "_modules")
WALKS = ("named_parameters", "named_buffers", "named_modules", "_named_members")


class Snapshot:
    """Parameters, frozen ones too, and buffers at a point, to be compared with what they become."""

    def __init__(self, point: Point) -> None:
        self.point = point
        self._state = [tensor.detach().clone() for tensor in point.watched()]
        tensors = point.watched()
        self._parameters = _parameters(tensors)
        self._versions = list(map(VERSION, self._parameters))
        modules = point.model.modules() if _usual(point.model) else ()
        self._modules = [module.__dict__ for module in modules]
        self._owned = _owned(self._modules)
        self._plain = [tensor for tensor in tensors if _is_plain(tensor)]
        self._places = [tensor.detach() for tensor in self._plain]
        self._kinds = list(map(KIND, self._plain))
        small: dict[Any, list[tuple[Tensor, Tensor]]] = {}
        self._large: list[tuple[Tensor, Tensor]] = []
        for tensor, old in zip(tensors, self._state, strict=True):
            if _is_plain(tensor) and tensor.is_contiguous() and old.numel() <= SMALL:
                pair = tensor.detach().view(-1), old.view(-1)
                small.setdefault((old.dtype, old.device), []).append(pair)
            else:
                self._large.append((tensor.detach(), old))
        self._small = [
            ([now for now, _ in pairs], torch.cat([old for _, old in pairs]))
            for pairs in small.values()
        ]

    def holds(self) -> bool:
        """Whether everything has the values that it had.

        Autograd also refuses parameters that were written to and then got their old values back.
        """
        if not self._is_where_it_was():
            return self._holds_read_anew()
        if list(map(VERSION, self._parameters)) != self._versions:
            return False
        small = ((torch.cat(parts), old) for parts, old in self._small)
        return all(
            torch.equal(now, old) or same(now, old) for now, old in chain(small, self._large)
        )

    def _is_where_it_was(self) -> bool:
        """Whether the model holds the same tensors, and they lie where they did."""
        now = _owned(self._modules)
        if not now or len(now) != len(self._owned) or not all(map(is_, now, self._owned)):
            return False
        if list(map(KIND, self._plain)) != self._kinds:
            return False
        return all(map(Tensor.is_set_to, self._plain, self._places))

    def _holds_read_anew(self) -> bool:
        """The same of whatever the model holds by now."""
        tensors = self.point.watched()
        versions = list(map(VERSION, _parameters(tensors)))
        if len(tensors) != len(self._state) or versions != self._versions:
            return False
        pairs = zip(tensors, self._state, strict=True)
        return all(now.dtype is old.dtype and same(now, old) for now, old in pairs)


def _usual(model: nn.Module) -> bool:
    """Whether its tensors are those in the dictionaries of its modules."""
    kinds = {type(module) for module in model.modules()}
    return all(getattr(kind, walk) is getattr(nn.Module, walk) for kind in kinds for walk in WALKS)


def _owned(modules: list[dict[str, Any]]) -> list[Any]:
    """What modules hold, of their dictionaries: parameters, buffers, modules.

    Most hold nothing of a kind, and what is not read need not be brought into the cache.
    """
    found: list[Any] = []
    for own in modules:
        for kind in KINDS:
            if held := own[kind]:
                found += held.values()
    return found


def _parameters(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if isinstance(tensor, nn.Parameter)]


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is numbers in memory and nothing else."""
    usual = type(tensor) in (Tensor, nn.Parameter, nn.Buffer) and tensor.device.type != "meta"
    return usual and tensor.layout == torch.strided and not tensor.is_nested

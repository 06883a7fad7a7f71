"""Weights that are not here: of the right shape, dtype and device, and without numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

VALUES = {"data", "T", "mT", "H", "mH", "real", "imag"}  # attributes that are made of numbers
METHODS = {
    "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size",
    "is_floating_point", "is_complex", "is_contiguous", "is_inference", "is_signed", "get_device",
    "requires_grad_", "untyped_storage", "__len__", "__hash__", "__repr__", "__reduce_ex__",
}  # fmt: skip


class AbsentError(RuntimeError):
    """Numbers of a weight were asked for where other processes have most of them."""


class Absent(nn.Parameter):
    """Stands in a model for a weight that lies in other processes, and takes no memory.

    >>> weight = Absent.like(torch.ones(2, 3))
    >>> weight.shape, weight.untyped_storage().nbytes()
    (torch.Size([2, 3]), 4)
    """

    place = "a weight"  # or its name

    @classmethod
    def like(cls, tensor: Tensor) -> Absent:
        """One for a parameter, which may be in pieces itself."""
        number = torch.full((), math.nan, dtype=tensor.dtype, device=tensor.device)
        number = number.expand(tensor.shape)
        made: Absent = torch.Tensor._make_subclass(cls, number, tensor.requires_grad)
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Shape, dtype and the like.

        Raises:
            AbsentError: if the numbers are wanted.
        """
        name = getattr(func, "__name__", "")
        place = getattr(getattr(func, "__self__", None), "__name__", "")
        if name == "__set__" or name in METHODS or (name == "__get__" and place not in VALUES):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        which = next(t.place for t in tree_leaves((args, kwargs)) if isinstance(t, cls))
        msg = f"{which} is used (in {name}) away from the block that holds it"
        raise AbsentError(msg)

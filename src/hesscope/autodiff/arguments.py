"""Which tensors the kernels take: ordinary ones, in one precision and in one place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def plain(*tensors: Any) -> bool:
    """Whether all are ordinary, and some need a gradient."""
    return ordinary(*tensors) and any(t.requires_grad for t in tensors if t is not None)


def ordinary(*tensors: Any) -> bool:
    """Whether all that are not None are numbers in memory, of one real dtype and device."""
    given = [tensor for tensor in tensors if tensor is not None]
    first = given[0]
    return (
        all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in given)
        and all(tensor.dtype == first.dtype and tensor.device == first.device for tensor in given)
        and first.is_floating_point()
        and all(tensor.layout == torch.strided and not tensor.is_nested for tensor in given)
        and not torch.is_autocast_enabled(first.device.type)
    )


def full(tensor: Tensor) -> bool:
    """Whether it has a precision in which sums over rows are taken as they are."""
    return tensor.dtype in (torch.float32, torch.float64)

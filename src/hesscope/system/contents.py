"""The content of a tensor as bytes, for checksums and for files."""

from __future__ import annotations

import torch
from torch import Tensor


def as_bytes(tensor: Tensor) -> Tensor:
    """All entries row by row, (bytes,) uint8 on the CPU; without a copy where they lie so already.

    A single entry may have any stride, also 0 of `expand`, and is contiguous all the same.

    >>> as_bytes(torch.ones(1, dtype=torch.int16).expand(1)).tolist()
    [1, 0]
    """
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().reshape(-1)
    if flat.stride() != (1,):
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)

"""Random vectors that depend on the seed alone: not on device, dtype, chunking or process count.

Block b of a vector comes from a counter-based generator (Philox, Salmon et al. 2011) keyed by
(seed, b), so any process can make its own part and all parts fit together.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BLOCK = 65_536  # entries per generator key; part of the definition of a probe


def gaussian(
    n: int, seed: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> Tensor:
    """A vector (n,) of independent standard normal entries.

    The entries are drawn in float64 and rounded, so float32 and float64 runs see the same probe.

    >>> bool((gaussian(5, seed=0) == gaussian(70_000, seed=0)[:5]).all())
    True
    """
    blocks = [_normal_block(seed, b, min(BLOCK, n - b * BLOCK)) for b in range(-(-n // BLOCK))]
    entries = np.concatenate(blocks) if blocks else np.empty(0)
    return torch.from_numpy(entries).to(device=device, dtype=dtype)


def rademacher(
    n: int, seed: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> Tensor:
    """A vector (n,) of independent signs, +1 or -1: the signs of `gaussian` with the same seed."""
    return torch.where(gaussian(n, seed) >= 0, 1.0, -1.0).to(device=device, dtype=dtype)


def _normal_block(seed: int, block: int, size: int) -> np.ndarray:
    key = np.array([seed % 2**64, block], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(size)

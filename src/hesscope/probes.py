"""Random vectors that depend on the seed alone: not on device, dtype, chunking or process count.

Block b of a vector comes from a counter-based generator (Philox, Salmon et al. 2011) keyed by
(seed, b), so any process can make its own part and all parts fit together. Whoever draws takes a
key of its own from the user's seed: two purposes never see the same numbers.
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np
import torch
from torch import Tensor

BLOCK = 65_536  # entries per generator key; part of the definition of a probe
FRESH = 53  # bits of a seed that is drawn: exact in float64, and nobody guesses them


def key(seed: int, purpose: str, index: int = 0) -> int:
    """A seed for one use of randomness; other purposes and indices have nothing to do with it.

    A kick and a start that were drawn from the seed itself would be the same vector, and what is
    certified with probability over the start would be void at the kicked point.

    >>> key(0, "kick") == key(0, "kick"), key(0, "kick") == key(0, "start")
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose} {index}".encode()).digest()[:7])


def fresh_seed() -> int:
    """A seed from the system's own randomness, which nobody has known before."""
    return secrets.randbits(FRESH)


def as_seed(given: int) -> int:
    """A seed as it was given.

    Raises:
        ValueError: if it is no integer.
    """
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)):
        msg = f"seed={given!r} is no integer; give one, or None to have a fresh one drawn."
        raise ValueError(msg)
    return int(given)


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

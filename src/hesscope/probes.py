"""Random vectors that depend on the seed alone: not on device, dtype, chunking or process count.

Block b of a vector comes from a counter-based generator (Philox, Salmon et al. 2011) keyed by
(seed, b), so any process can make its own part and all parts fit together. Whoever draws takes a
key of its own from the user's seed: two purposes never see the same numbers.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

BLOCK = 65_536  # entries per generator key; part of the definition of a probe
BLOCKS_A_THREAD = 8  # at least, or starting it takes longer than drawing
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
    n: int,
    seed: int,
    *,
    part: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """A vector (n,) of independent standard normal entries; of these, those of a part, (from, to).

    The entries are drawn in float64 and rounded, so float32 and float64 runs see the same probe.
    On the CPU, by as many threads as torch uses: a second for 10⁸ entries and one thread.

    >>> whole = gaussian(70_000, seed=0)
    >>> bool((gaussian(5, seed=0) == whole[:5]).all())
    True
    >>> bool((gaussian(70_000, seed=0, part=(65_000, 66_000)) == whole[65_000:66_000]).all())
    True
    """
    first, last = part or (0, n)
    skipped = first // BLOCK  # blocks, which nobody draws
    entries = _filled(last - skipped * BLOCK, seed, lambda block: block, dtype, skipped)
    return entries[first - skipped * BLOCK :].to(device=device, dtype=dtype)


def rademacher(
    n: int, seed: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> Tensor:
    """A vector (n,) of independent signs, +1 or -1: the signs of `gaussian` with the same seed."""
    signs = _filled(n, seed, lambda block: np.where(block >= 0, 1.0, -1.0), dtype)
    return signs.to(device=device, dtype=dtype)


def _filled(
    n: int,
    seed: int,
    of: Callable[[np.ndarray], np.ndarray],
    dtype: torch.dtype,
    skipped: int = 0,
) -> Tensor:
    """What `of` makes of each block of normal entries; NumPy draws outside of Python's lock.

    Single precision is rounded block by block, so that a long vector is never there in double; what
    NumPy does not know, or torch rounds in another way, is left in double to be rounded by torch.
    """
    entries = np.empty(n, dtype=np.float32 if dtype == torch.float32 else np.float64)

    def fill(b: int) -> None:
        piece = entries[b * BLOCK : (b + 1) * BLOCK]
        piece[:] = of(_normal_block(seed, skipped + b, len(piece)))

    blocks = range(-(-n // BLOCK))
    threads = min(torch.get_num_threads(), len(blocks) // BLOCKS_A_THREAD)
    if threads <= 1:
        for b in blocks:
            fill(b)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, blocks))
    return torch.from_numpy(entries)


def _normal_block(seed: int, block: int, size: int) -> np.ndarray:
    key = np.array([seed % 2**64, block], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(size)

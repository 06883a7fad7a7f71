"""Examples drawn from batches, in the order in which they lie there."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch

from hesscope import probes
from hesscope.problem.data import Batches
from hesscope.problem.examples import num_examples, take


def drawn(batches: Batches, num: int, seed: int) -> list[Any]:
    """`num` examples without replacement, batch by batch; batches where each is one item.

    Raises:
        ValueError: if num is not between 1 and the number of examples, or if the examples of a
            batch cannot be told apart.
    """
    sizes = [1 if batches.whole else num_examples(batch.content) for batch in batches]
    if not isinstance(num, Integral) or not 1 <= num <= sum(sizes):
        msg = f"num={num}: the data holds {sum(sizes)} examples; draw between 1 and that many."
        raise ValueError(msg)
    generator = torch.Generator().manual_seed(probes.key(seed, "subsample"))
    places = torch.randperm(sum(sizes), generator=generator)[:num].sort().values
    parts, start = [], 0
    for batch, size in zip(batches, sizes, strict=True):
        inside = places[(places >= start) & (places < start + size)] - start
        if len(inside):
            parts.append(batch.content if batches.whole else take(batch.content, inside))
        start += size
    return parts

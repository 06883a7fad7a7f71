"""Noise of a step that depends on the seed and the number of the step, and on nothing before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hesscope import probes


def normal(parameters: Sequence[Tensor], seed: int, purpose: str, step: int) -> list[Tensor]:
    """Independent standard normal entries in the shapes of the parameters, drawn on their devices.

    The same for a resumed run on the same kind of device; in float32, or float64 where they are.

    >>> theta = torch.zeros(2, 3)
    >>> torch.equal(normal([theta], 0, "doc", 5)[0], normal([theta], 0, "doc", 5)[0])
    True
    """
    drawn = []
    for p, generator in _generators(parameters, probes.key(seed, purpose, step)):
        dtype = p.dtype if p.dtype == torch.float64 else torch.float32
        drawn.append(torch.randn(p.shape, generator=generator, dtype=dtype, device=p.device))
    return drawn


def signs(tensors: Sequence[Tensor], seed: int, purpose: str, index: int) -> list[Tensor]:
    """Independent entries +1 and -1 in the shapes of the tensors, drawn on their devices.

    >>> [int(x) for x in signs([torch.zeros(4)], 0, "doc", 0)[0].square()]
    [1, 1, 1, 1]
    """
    drawn = []
    for t, generator in _generators(tensors, probes.key(seed, purpose, index)):
        bits = torch.randint(2, t.shape, generator=generator, device=t.device)
        drawn.append((2 * bits - 1).to(t.dtype))
    return drawn


def _generators(tensors: Sequence[Tensor], seed: int) -> Iterator[tuple[Tensor, torch.Generator]]:
    """Each tensor with the generator of its device, which goes on from one to the next."""
    known: dict[torch.device, torch.Generator] = {}
    for t in tensors:
        if t.device not in known:
            known[t.device] = torch.Generator(t.device).manual_seed(seed)
        yield t, known[t.device]


def norm(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm of all entries together, in float32 at least."""
    kinds = [torch.float64 if t.dtype == torch.float64 else torch.float32 for t in tensors]
    pairs = zip(tensors, kinds, strict=True)
    sizes = [torch.linalg.vector_norm(t, dtype=kind).double() for t, kind in pairs]
    return float(
        torch.linalg.vector_norm(torch.stack([size.to(sizes[0].device) for size in sizes]))
    )

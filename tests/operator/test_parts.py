"""Sums over parts: the same bits however many processes hold them, and wherever they lie."""

from __future__ import annotations

import pytest
import torch

from hesscope.operator import parts as module
from hesscope.operator.parts import ALIGNED, Parts, add_combined, columns, dots, inners, parts_of

LENGTHS = [1, 2, 11, 93, 603, 4_096, 4_097, 20_011, 98_305, 200_003]
PROCESSES = (2, 3, 4, 7)


def pieces_of(n: int, processes: int) -> list[tuple[slice, Parts]]:
    found, start = [], 0
    for rank in range(processes):
        share = parts_of(n).share(rank, processes)
        found.append((slice(start, start + sum(share.lengths)), share))
        start += sum(share.lengths)
    return found


def somewhere(X: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """The same numbers, in memory as a basis and its vectors have them: rows are aligned."""
    long = -(-X.shape[dim] // ALIGNED) * ALIGNED
    shape = [*X.shape[:dim], long, *X.shape[dim + 1 :]]
    return torch.empty(shape, dtype=X.dtype).narrow(dim, 0, X.shape[dim]).copy_(X)


def tables(rows: torch.Tensor, V: torch.Tensor, parts: Parts) -> list[torch.Tensor]:
    """What is summed over entries, and what is found for each of them, of vectors in pieces."""
    rows, V, w = somewhere(rows, 1), somewhere(V), somewhere(V[:, 0])
    found = torch.zeros(len(parts), len(rows), dtype=torch.float64)
    for chunk in parts.chunks:
        own = dots(rows[:, chunk.entries], w[chunk.entries], chunk, parts.short)
        found[chunk.first : chunk.first + len(chunk.lengths)] += own
    out = torch.zeros_like(V)
    add_combined(out, rows, torch.linspace(1, 2, 15).reshape(5, 3).to(V), parts)
    turned = [columns(V, torch.linspace(1, 2, 3 * k).reshape(3, k).to(V), parts) for k in (1, 2)]
    sums = [inners(A, B, parts) for A, B in ((V, V), (w[:, None], w[:, None]), (rows.T, V[:, :1]))]
    return [found, *sums, out, *turned]


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pieces_of_any_number_of_processes_have_the_bits_of_the_whole(n, dtype):
    generator = torch.Generator().manual_seed(n)
    rows = torch.randn(5, n, generator=generator).to(dtype)
    V = torch.randn(n, 3, generator=generator).to(dtype)
    whole = tables(rows, V, parts_of(n))
    exact = (rows.double() * V[:, 0].double()).sum(1)
    assert (whole[0].sum(0) - exact).abs().max() <= n**0.5 * 100 * torch.finfo(dtype).eps
    for processes in PROCESSES:
        pieces = [tables(rows[:, own], V[own], share) for own, share in pieces_of(n, processes)]
        for known, *found in zip(whole, *pieces, strict=True):
            assert torch.equal(torch.cat(found), known)


@pytest.mark.parametrize("n", [*LENGTHS, 10**7, 10**9])
def test_parts_are_shared_out_evenly(n):
    lengths = parts_of(n).lengths
    assert (sum(lengths), min(lengths) > 0, len(lengths) <= module.MOST) == (n, True, True)
    assert [sum(share.lengths) for _, share in pieces_of(n, 2)] == [-(-n // 2), n // 2] or n > 4_096
    for processes in (2, 3, 4):
        most = max(sum(share.lengths) for _, share in pieces_of(n, processes))
        assert most <= n / processes + max(lengths)


def test_chunks_are_whole_parts_or_pieces_of_a_long_one():
    for lengths in ([3, 4, 5, 2], [9, 30, 1], [25], []):
        parts = Parts(tuple(lengths), at_once=10)
        seen = [i for chunk in parts.chunks for i in range(*chunk.entries.indices(10**6))]
        assert seen == list(range(sum(lengths)))
        of_parts = [0] * len(lengths)
        for chunk in parts.chunks:
            assert sum(chunk.lengths) <= 10
            for i, length in enumerate(chunk.lengths, chunk.first):
                of_parts[i] += length
        assert of_parts == lengths


def test_on_a_gpu_there_is_one_part_and_pieces_are_as_long_as_each_other():
    whole = parts_of(10, on_cpu=False)
    assert [whole.share(rank, 4).lengths for rank in range(4)] == [(3,), (3,), (3,), (1,)]
    assert [parts_of(2, on_cpu=False).share(rank, 3).lengths for rank in range(3)] == [
        (1,),
        (1,),
        (0,),
    ]

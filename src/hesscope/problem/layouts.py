"""Tensors of every layout: what they consist of, whether two are the same, and rows of them.

torch has neither `equal` nor `reshape` nor slices for sparse tensors, and no sizes for nested ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def plain_parts(tensor: Tensor) -> list[Tensor]:
    """The strided tensors that it is made of.

    >>> [part.tolist() for part in plain_parts(torch.eye(2).to_sparse())]
    [[[0, 1], [0, 1]], [1.0, 1.0]]
    """
    if tensor.is_nested:
        return list(tensor.unbind())
    if tensor.layout == torch.strided or tensor.is_mkldnn:
        return [tensor]
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one layout have the same entries, NaN being as good as NaN."""
    a, b = a.detach(), b.detach()
    if a.layout == torch.strided and not a.is_nested:
        return _same(a, b)
    ones, others = plain_parts(a), plain_parts(b)
    return len(ones) == len(others) and all(map(_same, ones, others))


def _same(a: Tensor, b: Tensor) -> bool:
    if torch.equal(a, b):
        return True
    if a.shape != b.shape or not a.is_floating_point():
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def num_rows(tensor: Tensor) -> int:
    """The size of its first dimension; -1 where it has none."""
    if tensor.ndim == 0:
        return -1
    return int(tensor.size(0))


def rows(tensor: Tensor, index: slice | Tensor) -> Tensor:
    """Its rows at these positions, in its own layout.

    >>> rows(torch.eye(3).to_sparse(), slice(1, 3)).to_dense().tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if tensor.is_nested:
        parts = tensor.unbind()
        places = range(*index.indices(len(parts))) if isinstance(index, slice) else index.tolist()
        return torch.nested.as_nested_tensor([parts[i] for i in places], layout=tensor.layout)
    if tensor.layout == torch.strided:
        return tensor[index]
    if isinstance(index, slice):
        index = torch.arange(*index.indices(len(tensor)), device=tensor.device)
    chosen = tensor.to_sparse_coo().index_select(0, index)
    block = tensor.values().shape[1:3] if tensor.layout in _BLOCKS else None
    return chosen if tensor.layout == torch.sparse_coo else _compressed(chosen, tensor, block)


_BLOCKS = (torch.sparse_bsr, torch.sparse_bsc)


def _compressed(chosen: Tensor, like: Tensor, block: Sequence[int] | None) -> Tensor:
    """In the layout of another one; by rows where its blocks do not fit any more."""
    if block is not None and chosen.shape[0] % block[0]:
        return chosen.to_sparse_csr()
    return chosen.to_sparse(layout=like.layout, blocksize=None if block is None else tuple(block))

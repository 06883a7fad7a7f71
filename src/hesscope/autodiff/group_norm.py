"""GroupNorm as LayerNorm over the channels and places of each group, weights by channel.

Written for x (examples, groups, channels in a group, places) and w (groups, channels in a group,
1), all formulas of `normalisations` hold as they are, with rows over the last two dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesscope.autodiff.normalisations import LayerNorm, Rows, Some, normalised

aten = torch.ops.aten


class GroupNorm(LayerNorm):
    """By the two kernels of torch."""

    def forward(self, x: Tensor, w: Some, b: Some) -> tuple[Tensor, Some, Tensor]:
        """Torch's own forward pass."""
        y, mean, r = torch.native_group_norm(
            x.contiguous(), _flat(w), _flat(b), *_sizes(x), self.eps
        )
        by_row = *x.shape[:2], 1, 1
        y = aten._unsafe_view(y, x.shape)  # no view for autograd: the user may write into it
        return y, mean.view(by_row), r.view(by_row)

    def backward(
        self, g: Tensor, row: Rows, w: Some, b: Some, mask: list[bool]
    ) -> tuple[Some, ...]:
        """Torch's own backward pass."""
        assert row.mean is not None
        x, mean, r = row.x.contiguous(), row.mean.flatten(1), row.r.flatten(1)
        gx, gw, gb = aten.native_group_norm_backward(
            g.contiguous(), x, mean, r, _flat(w), *_sizes(x), mask
        )
        return gx, *(s if s is None or t is None else s.view_as(t) for s, t in ((gw, w), (gb, b)))


def group_norm(x: Tensor, groups: int, w: Some, b: Some, eps: float) -> Tensor:
    """GroupNorm of x (examples, channels, ...)."""
    rows = x.reshape(len(x), groups, x.shape[1] // groups, -1)
    w, b = (None if t is None else t.view(groups, -1, 1) for t in (w, b))
    return normalised(GroupNorm(list(rows.shape[2:]), eps), rows, w, b).view(x.shape)


def _sizes(x: Tensor) -> tuple[int, int, int, int]:
    """Examples, channels, places and groups."""
    examples, groups, channels, places = x.shape
    return examples, groups * channels, places, groups


def _flat(t: Some) -> Some:
    return None if t is None else t.flatten().contiguous()

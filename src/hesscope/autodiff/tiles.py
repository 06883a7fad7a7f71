"""The rows of P = softmax(s Q Kᵀ + M) that are in memory at a time, where all of them are not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Some = Tensor | None
ENTRIES = {"cpu": 2**18}  # of P at a time: 1 MB in single precision stays near a core
MANY = 2**24  # the same elsewhere


@dataclass(frozen=True)
class Tile:
    """Some groups and queries, for all heads of each group, and the keys that they may see."""

    groups: slice
    queries: slice
    keys: slice

    def rows(self, t: Tensor) -> Tensor:
        """Those of (groups, heads, queries, d) in the tile, (groups, rows, d)."""
        rows = _part(_part(t, 0, self.groups), 2, self.queries)
        return rows.reshape(rows.shape[0], -1, rows.shape[-1])

    def columns(self, t: Tensor) -> Tensor:
        """Those of (groups, keys, d) in the tile."""
        return _part(_part(t, 0, self.groups), 1, self.keys)

    def put(self, target: Tensor, rows: Tensor) -> None:
        """Writes rows to where `rows` reads them."""
        place = _part(_part(target, 0, self.groups), 2, self.queries)
        place.copy_(rows.view(place.shape))


@dataclass(frozen=True)
class Tiling:
    """How attention of q (groups, heads, queries, d), k and v (groups, keys, d or e) is cut.

    The groups of one example after another, `groups` each. A mask, (examples, groups, heads,
    queries, keys) or 1 in each place, is boolean or added.
    """

    groups: int
    scale: float
    causal: bool
    mask: Some

    def tiles(self, q: Tensor, k: Tensor) -> Iterator[Tile]:
        """Tiles of about ENTRIES entries, of one group where there is a mask or it is large."""
        (groups, heads, queries, _), keys = q.shape, k.shape[1]
        entries = ENTRIES.get(q.device.type, MANY)
        together = 1 if self.mask is not None else max(1, entries // (heads * queries * keys))
        rows = max(1, entries // (heads * keys))
        for n in range(0, groups, together):
            for a in range(0, queries, rows):
                b = min(a + rows, queries)
                seen = min(b, keys) if self.causal else keys
                yield Tile(slice(n, min(n + together, groups)), slice(a, b), slice(0, seen))

    def logarithms(self, q: Tensor, k: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
        """P in a tile, and log Σ exp of the scores by row, 0 for a query that sees no key."""
        scores = self._scores(q, k, tile)
        L = torch.logsumexp(scores, -1, keepdim=True)
        L.masked_fill_(L.isneginf(), 0)
        return scores.sub_(L).exp_(), L

    def weights(self, q: Tensor, k: Tensor, L: Tensor, tile: Tile) -> Tensor:
        """P in a tile."""
        return self._scores(q, k, tile).sub_(tile.rows(L)).exp_()

    def _scores(self, q: Tensor, k: Tensor, tile: Tile) -> Tensor:
        """s Q Kᵀ + M in a tile, (groups, rows, keys)."""
        columns = tile.columns(k)
        scores = torch.bmm(tile.rows(q) * self.scale, columns.mT)
        queries = tile.queries.stop - tile.queries.start
        grid = scores.view(len(columns), -1, queries, columns.shape[1])
        if self.causal:
            row = torch.arange(tile.queries.start, tile.queries.stop, device=q.device)
            later = torch.arange(columns.shape[1], device=q.device) > row[:, None]
            grid.masked_fill_(later, -math.inf)
        if self.mask is not None:
            mask = self._cut(self.mask, tile)
            if mask.dtype == torch.bool:
                grid.masked_fill_(~mask, -math.inf)
            else:
                grid.add_(mask)
        return scores

    def _cut(self, mask: Tensor, tile: Tile) -> Tensor:
        """The mask of a tile of one group, (heads, queries, keys) or 1 in each place."""
        example, group = divmod(tile.groups.start, self.groups)
        mask = mask[example % len(mask), group % mask.shape[1]]
        mask = mask if mask.shape[1] == 1 else mask[:, tile.queries]
        return mask if mask.shape[2] == 1 else mask[:, :, tile.keys]


def _part(t: Tensor, dim: int, place: slice) -> Tensor:
    return t.narrow(dim, place.start, place.stop - place.start)

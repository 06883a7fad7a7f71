"""Vectors of which each process holds a share, and how parts of them come together and go back.

Process r holds so many entries of a vector (n,), after those of the processes before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from hesscope.system import collectives
from hesscope.system.absence import named_absence
from hesscope.system.agreement import meeting_place


class Spread:
    """How vectors (n,) are spread over the processes, by how many entries each holds.

    >>> Spread([5]).own  # in one process
    slice(0, 5, None)
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths, self.num = list(lengths), len(lengths)
        self._ends = list(accumulate(lengths))
        self.own = self.of(collectives.rank())

    def of(self, rank: int) -> slice:
        """The entries that a process holds."""
        return slice(self._ends[rank] - self.lengths[rank], self._ends[rank])

    def whole(self, X: Tensor) -> Tensor:
        """The vectors of which each process holds its share, (n,) or (n, k), on all of them."""
        return collectives.joined(X, self.lengths)

    def bring(self, share: Tensor, parts: Sequence[slice]) -> Tensor:
        """The entries of a vector at these places, one part after the other; all call it.

        Args:
            share: what this process holds of the vector.
            parts: places in the vector, in their order, apart from one another.
        """
        found = torch.empty(_length(parts), dtype=share.dtype, device=meeting_place())

        def fill(place: slice, entries: slice) -> None:
            found[place] = share[entries]

        with named_absence():
            owners = list(self._owners(parts, fill))
            for work in [dist.broadcast(found[held], r, async_op=True) for r, held in owners]:
                work.wait()
        return found.to(share.device)

    def add(self, share: Tensor, parts: Sequence[slice], found: Tensor) -> None:
        """Adds to a vector at these places what all processes have found; all call it.

        Args:
            share: what this process holds of the vector; it is written to.
            parts: as above.
            found: what this process adds, one part after the other; it is used up.
        """
        found, mine = found.to(meeting_place()), []
        with named_absence():
            owners = list(self._owners(parts, lambda *pair: mine.append(pair)))
            for work in [dist.reduce(found[held], r, async_op=True) for r, held in owners]:
                work.wait()
        for place, entries in mine:
            share[entries] += found[place].to(share.device)

    def _owners(
        self, parts: Sequence[slice], own: Callable[[slice, slice], None]
    ) -> Iterator[tuple[int, slice]]:
        """Each process that holds some of the parts, and where that lies among them.

        `own` is told of what this process holds: the place among the parts and in its share.
        """
        for rank in range(self.num):
            held, start, places = self.of(rank), 0, []
            for part in parts:
                a, b = max(part.start, held.start), min(part.stop, held.stop)
                if a < b:
                    first = start + a - part.start
                    places.append(slice(first, first + b - a))
                    if rank == collectives.rank():
                        own(places[-1], slice(a - held.start, b - held.start))
                start += part.stop - part.start
            if places:
                yield rank, slice(places[0].start, places[-1].stop)


def _length(parts: Sequence[slice]) -> int:
    return sum(part.stop - part.start for part in parts)

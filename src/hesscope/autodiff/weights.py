"""Where a pass through a cut loss finds weights and directions, and leaves products."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from hesscope.autodiff.tape import Leaf
from hesscope.problem.evaluation import Evaluation


class Weights:
    """Parameters that are at hand, with directions and products.

    Args:
        leaves: the parameters that the graph between blocks may begin at.
        num: how many directions there are.
    """

    inside: Sequence[Leaf] = ()  # parameters of blocks alone, of which the rest knows nothing

    def __init__(self, leaves: Sequence[Leaf], num: int) -> None:
        self.leaves, self.num = leaves, num

    @classmethod
    def at_hand(cls, e: Evaluation, directions: Tensor, products: Tensor) -> Weights:
        """Those of an evaluation, with directions (m, n) and products (m, n), which are added to.

        Args:
            e: the evaluation.
            directions: one a row.
            products: where to add to.
        """
        split = e.point.layout.split
        tangents = list(zip(*map(split, directions), strict=True))
        found = list(zip(*map(split, products), strict=True))
        leaves = [
            Leaf(leaf, list(tangent), list(product))
            for leaf, tangent, product in zip(e.leaves, tangents, found, strict=True)
        ]
        return cls(leaves, len(directions))

    def here(self, block: nn.Module, *, back: bool = False) -> AbstractContextManager[None]:  # noqa: ARG002
        """Inside, those of a block are at hand; on the way back its products are then added."""
        return nullcontext()

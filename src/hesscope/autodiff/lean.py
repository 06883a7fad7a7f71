"""The engine whose products take less memory than a gradient, and its proof on a few examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hesscope import probes, rounding
from hesscope.autodiff.blocks import blocks_of
from hesscope.autodiff.cut import Manner, lean_products
from hesscope.autodiff.dual import LeanError, Misfit
from hesscope.autodiff.gathered import gathered_products, weakest_by_blocks
from hesscope.autodiff.reverse import Engine, gradient_and_product, not_implemented
from hesscope.autodiff.shares import spread_of
from hesscope.problem.calls import NonFiniteLossError
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.examples import num_examples, take
from hesscope.problem.problem import Problem
from hesscope.system.agreement import Same, agreed, together
from hesscope.system.memory import is_out_of_memory

SHARE = (
    8  # of a batch that examples may be which whole graphs are built for: three gradients' worth
)


class Lean(Engine):
    """H v with blocks of the model run again on the way back; exact, and kept graphs are none.

    At most four gradients of operations for a product, three and a bit for each of several at once.
    The first one is compared with reverse-over-reverse, on at most an eighth of a batch, which
    costs less than one more.
    """

    name = "lean"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.compared: str | None = None
        self._weakest: torch.dtype | None = None
        self._moved: dict[str, int] = {}  # bytes, between processes
        self._manner = Manner(())
        structure = problem.point.structure
        if not blocks_of(structure):
            msg = (
                f"product='lean' finds no blocks in {type(structure).__name__}: modules of one "
                "class in an nn.ModuleList or nn.Sequential, or the layers of an nn.Sequential. "
                "Hold them in one, or use product='reverse-over-reverse'."
            )
            raise ValueError(msg)

    @property
    def in_pieces(self) -> bool:
        """Whether the weights are cut over processes, and come together block by block."""
        return self.problem.point.in_pieces is not None

    @property
    def weakest(self) -> torch.dtype:
        """The dtype with the fewest digits between theta and the loss, seen once on one batch."""
        shards = self.problem.point.in_pieces
        if shards is None:
            return self.problem.weakest
        if self._weakest is None:
            bare = self._without_weights()
            with bare.evaluation() as e:
                self._weakest = weakest_by_blocks(e, shards, blocks_of(bare.model))
        return self._weakest

    def products(self, V: Tensor) -> Tensor:
        """H V: one evaluation of each batch for up to five columns.

        Raises:
            LeanError: if the model does not allow it, with cause and cure.
            RuntimeError: if torch has no second derivative of it.
        """
        if self.in_pieces:
            spread = spread_of(self.problem.n, self.problem.device)
            agreed(V, (self._vectors(V),))
            mine = self.products_of_shares(V[spread.own])
            assert mine is not None
            return spread.whole(mine)
        manner = self._manner
        manner.blocks, manner.scan = blocks_of(self.problem.model), self.compared is None
        with _explained():
            if manner.scan:
                with together():
                    self.compared = self._compared()
            with self.problem.evaluation() as e:
                return e.mean(lambda batch: lean_products(e, batch, V, manner), self._vectors(V))

    def products_of_shares(self, V: Tensor) -> Tensor | None:
        """The shares of H V from shares of V, where the weights are cut over the processes, too."""
        shards = self.problem.point.in_pieces
        if shards is None:
            return None
        shards.let_go()
        manner, bare = self._manner, self._without_weights()
        manner.blocks, manner.scan = blocks_of(bare.model), self.compared is None
        with _explained(), bare.evaluation() as e:
            found, moved = gathered_products(e, shards, V, manner)
        self.compared = "not compared with a whole graph: no process holds all weights"
        self._moved = dict(moved)
        return found

    def _without_weights(self) -> Problem:
        """The problem on the copy of a model of which the weights are absent."""
        return self.problem._standing_at(self.problem.point.without_weights())

    @staticmethod
    def _vectors(V: Tensor) -> Same:
        return Same("vectors", ("block of vectors",), lambda: (V,))

    def facts(self) -> dict[str, Any]:
        """The engine, its blocks, and what it was compared with."""
        point = self.problem.point
        kinds = Counter(type(block).__name__ for block in blocks_of(point.structure))
        blocks = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        compared = {} if self.compared is None else {"compared": self.compared}
        cut = {"weights": "one block at a time"} if self.in_pieces else {}
        moved = {f"bytes {what}": number for what, number in self._moved.items()}
        return {"product": self.name, "blocks": blocks, **compared, **cut, **moved}

    def _compared(self) -> str:
        """How far a product on a few examples is off that of a whole graph, in words.

        No process waits for another here: what it sees is its own.

        Raises:
            LeanError: if it is off by more than rounding.
        """
        with self.problem.evaluation() as e:
            few = _few(next(iter(e.batches), None))
            found = few if isinstance(few, str) else _difference(e, few, self._manner)
        if isinstance(few, str) or isinstance(found, str):
            return f"not compared with a whole graph: {found}"
        num = num_examples(few.content)
        if not self._is_rounding(found):
            cause = (
                f"on {num} examples its product is off by {found.error:.1e} of {found.size:.1e}, "
                "which is more than rounding: some block is no function of its arguments and "
                "parameters"
            )
            raise LeanError(Misfit(cause))
        off = found.error / max(found.size, rounding.tiny())
        return f"{off:.0e} off a whole graph's, on {num} examples"

    def _is_rounding(self, found: _Difference) -> bool:
        """Whether it is the rounding of the weakest dtype, asked for only if need be."""
        if found.is_rounding(self.problem.dtype, self.problem.n):
            return True
        return found.is_rounding(self.problem.weakest, self.problem.n)


@contextmanager
def _explained() -> Iterator[None]:
    """Says what it means that torch has no second derivative of something.

    Raises:
        RuntimeError: then.
    """
    try:
        yield
    except NotImplementedError as error:
        raise RuntimeError(not_implemented(error)) from error


@dataclass(frozen=True)
class _Difference:
    """Of two products."""

    error: float
    size: float  # of the product
    moved: float  # the gradient along v, where v is as long as theta: has the product's units

    def is_rounding(self, dtype: torch.dtype, n: int) -> bool:
        """Whether arithmetic in a dtype may leave it."""
        noise = rounding.gradient_change_noise(dtype, self.moved)
        return self.error <= rounding.product_tolerance(dtype, n) * self.size + noise


def _difference(e: Evaluation, few: Batch, manner: Manner) -> _Difference | str:
    """How far a lean product is off that of a whole graph; or why there is no such graph.

    Raises:
        RuntimeError: if a product cannot be had for another reason.
    """
    point, key = e.point, probes.key(0, "lean product against reverse-over-reverse")
    v = probes.gaussian(point.layout.n, key, dtype=point.dtype, device=point.device)[:, None]
    try:
        gradient, whole = gradient_and_product(e, few, v)
    except (ValueError, NonFiniteLossError, MemoryError) as failure:  # too few, or no room
        return str(failure)
    except RuntimeError as failure:
        if not is_out_of_memory(failure):
            raise
        return str(failure)
    error = float((lean_products(e, few, v, manner) - whole).norm())
    theta = sum(float(leaf.detach().norm()) ** 2 for leaf in e.leaves) ** 0.5
    moved = float(gradient.norm() * v.norm()) / max(theta, rounding.tiny())
    return _Difference(error, float(whole.norm()), moved)


def _few(batch: Batch | None) -> Batch | str:
    """One or two examples of a batch, or why there are none."""
    if batch is None:
        return "this process has no data"
    if batch.whole:
        return "a batch is one item"
    try:
        size = num_examples(batch.content)
    except ValueError as error:
        return str(error)
    if size < 2:
        return "a batch is one example"
    return replace(batch, content=take(batch.content, slice(0, 2 if size >= 2 * SHARE else 1)))

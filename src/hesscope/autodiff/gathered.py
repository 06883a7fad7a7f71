"""Lean products of a model whose weights are cut over processes: one block at a time is whole.

Weights, directions and products lie in shares. When a block is run, forward or again on the way
back, all processes bring its weights and its part of the directions together, and what they find
of its part of the product is added up and goes back to the shares: for m directions 2 (1 + m) n
numbers are brought and m n are added. What no block holds (embeddings, head) is brought once for
all batches, and is there until they are done.

Processes may come to blocks in different order, or not at all: one has fewer batches, another
tries again. So each says before what it comes for, the first one's wish is served by all, and who
has nothing left to do serves until all are done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hesscope.autodiff.cut import TOGETHER, Manner, passed, replaced
from hesscope.autodiff.dual import LeanError, Misfit
from hesscope.autodiff.shares import spread_of
from hesscope.autodiff.tape import Leaf
from hesscope.autodiff.weights import Weights
from hesscope.problem.absent import Absent, AbsentError
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.parameters import Layout, substituted
from hesscope.problem.precision import Weakest, few_of
from hesscope.problem.shards import Shards
from hesscope.system.agreement import exchange, together

DONE = "done"


def gathered_products(
    e: Evaluation, shards: Shards, V: Tensor, manner: Manner
) -> tuple[Tensor, Counter[str]]:
    """The share of H V from that of V, (num_local, k) both, and how many bytes travelled.

    All processes call it.

    Args:
        e: an evaluation of the model without weights, on the data of this process.
        shards: the weights.
        V: the share of the directions that this process holds.
        manner: the blocks of that model; it learns.

    Raises:
        LeanError: if it cannot be had so, with cause and cure.
        RuntimeError: what a lean product raises; and if another process fails.
    """
    plan = _Plan(shards, e.point.layout, e.model, manner.blocks)
    directions = V.T.contiguous()
    products = torch.zeros_like(directions)
    parts = zip(directions.split(TOGETHER), products.split(TOGETHER), strict=True)
    for some, found in parts:
        meetings = _Meetings(plan, some, found)
        with told(meetings):
            _all_batches(e, meetings, manner)
            meetings.serve(DONE)
    return products.T, plan.moved


def weakest_by_blocks(e: Evaluation, shards: Shards, blocks: Sequence[nn.Module]) -> torch.dtype:
    """The dtype with the fewest digits between theta and the loss of a few examples.

    All processes call it.
    """
    plan = _Plan(shards, e.point.layout, e.model, blocks)
    meetings = _Meetings(plan)

    def weights_of(group: int) -> dict[str, Tensor]:
        weights = meetings.bring(group)[0]
        mode.follow(tensor for name, tensor in weights.items() if name in plan.places)
        return weights

    def brought(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with substituted(e.model, weights_of(plan.number[block])):
                return forward(*args, **kwargs)

        return run

    with told(meetings), Weakest(e.point.dtype, []) as mode, replaced(blocks, brought):
        batch = few_of(e.batches.first)
        with substituted(e.model, weights_of(len(blocks))), e.values() as value:
            value(batch)
        meetings.serve(DONE)
    return mode.dtype


@contextmanager
def told(meetings: _Meetings) -> Iterator[None]:
    """What goes wrong in one process goes wrong in all, for the same reason.

    Raises:
        LeanError: if a weight is used away from its block.
        Exception: whatever it was.
    """
    with together():
        try:
            yield
        except Exception as error:
            if meetings.failure is not None:  # whatever the user's code made of it
                raise meetings.failure from None
            if (absent := _cause(error)) is not None:
                raise LeanError(Misfit(str(absent), CURE)) from None
            raise


CURE = "use each weight in the module that holds it"


def _cause(error: BaseException | None) -> AbsentError | None:
    while error is not None and not isinstance(error, AbsentError):
        error = error.__cause__ or error.__context__
    return error


def _all_batches(e: Evaluation, meetings: _Meetings, manner: Manner) -> None:
    outer: _Blockwise | None = None
    for batch in e.batches:
        outer = outer or _Blockwise(e.model, meetings)
        outer.weigh(batch.count / e.num_items)
        with substituted(e.model, outer.between):
            passed(e, batch, manner, outer)
    if outer is not None:
        outer.give()


class _Plan:
    """Which parameters belong to which block, and how many bytes have travelled.

    Args:
        shards: the weights.
        layout: which of them theta is made of.
        model: the copy without weights.
        blocks: its blocks.
    """

    def __init__(
        self, shards: Shards, layout: Layout, model: nn.Module, blocks: Sequence[nn.Module]
    ) -> None:
        self.shards, self.spread = shards, spread_of(layout.n, shards.device)
        self.absent = {name: p for name, p in model.named_parameters() if isinstance(p, Absent)}
        self.places = layout.slices()
        inside = {module for block in blocks for module in block.modules()}
        outer = _held([m for m in model.modules() if m not in inside])
        self.names = [self._named(_held(block.modules()) - outer) for block in blocks]
        self.names.append(self._named(outer))  # what lies between blocks
        self.number = {block: i for i, block in enumerate(blocks)}
        self.moved: Counter[str] = Counter()  # bytes

    def parts(self, group: int) -> list[slice]:
        """Where a group lies in theta, in its order."""
        return [self.places[name] for name in self.names[group] if name in self.places]

    def _named(self, tensors: set[int]) -> list[str]:
        """In the order of theta."""
        return [name for name, p in self.absent.items() if id(p) in tensors]


def _held(modules: Any) -> set[int]:
    return {id(p) for module in modules for p in module._parameters.values() if p is not None}


class _Meetings:
    """Of all processes, at each of which one group is brought together or added up."""

    def __init__(
        self, plan: _Plan, directions: Iterable[Tensor] = (), products: Iterable[Tensor] = ()
    ) -> None:
        self.all, self.directions, self.products = plan, list(directions), list(products)
        self.failure: Exception | None = None

    def bring(self, group: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The weights of a group by name, and along each direction its entries in a row."""
        found: tuple[dict[str, Tensor], list[Tensor]] = self.serve(f"bring {group}")
        return found

    def add(self, group: int, found: list[Tensor]) -> None:
        """Adds to the products, for each direction the entries of a group in a row."""
        self.serve(f"add {group}", found)

    def serve(self, wish: str, own: list[Tensor] | None = None) -> Any:
        """Does with all others what they wish in turn, until it is what is wished here.

        Raises:
            Exception: if another process fails; then each time.
        """
        while True:
            if self.failure is not None:
                raise self.failure
            try:
                wishes = [record["wish"] for record in exchange({"wish": wish})]
                first = next((one for one in wishes if one != DONE), DONE)
                if first == DONE:
                    return None
                what, _, group = first.partition(" ")
                found = self._bring(int(group)) if what == "bring" else None
                if what == "add":
                    self._add(int(group), own if first == wish else None)
            except Exception as error:
                self.failure = error
                raise
            if first == wish:
                return found
            del found

    def _bring(self, group: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        parts, spread = self.all.parts(group), self.all.spread
        weights = self.all.shards.bring(self.all.names[group])
        tangents = [spread.bring(share, parts) for share in self.directions]
        for tensor in (*weights.values(), *tangents):
            self.all.moved["brought"] += tensor.nbytes
        return weights, tangents

    def _add(self, group: int, own: list[Tensor] | None) -> None:
        parts, spread = self.all.parts(group), self.all.spread
        length = sum(part.stop - part.start for part in parts)
        for j, share in enumerate(self.products):
            found = share.new_zeros(length) if own is None else own[j]
            self.all.moved["added"] += found.nbytes
            spread.add(share, parts, found)


class _Remote(Leaf):
    """A parameter that is whole while its block is run, and absent else."""

    whole: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """Its numbers."""
        assert self.whole is not None
        return self.whole.detach()


class _Blockwise(Weights):
    """Weights that are brought when their block is run."""

    def __init__(self, model: nn.Module, meetings: _Meetings) -> None:
        self.model, self.meetings, self.all = model, meetings, meetings.all
        weights, tangents = meetings.bring(len(self.all.names) - 1)
        self.found = [torch.zeros_like(row) for row in tangents]
        self.between = weights  # by name, in the place of absent ones
        leaves, start = [], 0
        for name, tensor in weights.items():
            if name in self.all.places:
                part = slice(start, start := start + tensor.numel())
                rows = ([row[part].view_as(tensor) for row in of] for of in (tangents, self.found))
                leaves.append(Leaf(tensor.requires_grad_(), *rows))
        super().__init__(leaves, len(meetings.directions))
        inner = {name for names in self.all.names[:-1] for name in names}
        self.remote = {
            name: _Remote(self.all.absent[name], [], []) for name in inner & set(self.all.places)
        }
        self.inside = list(self.remote.values())

    def weigh(self, factor: float) -> None:
        """Says how much what is found next counts."""
        for leaf in (*self.leaves, *self.inside):
            leaf.factor = factor

    def give(self) -> None:
        """Adds what lies between blocks to the products."""
        self.meetings.add(len(self.all.names) - 1, self.found)

    @contextmanager
    def here(self, block: nn.Module, *, back: bool = False) -> Iterator[None]:
        """Inside, the weights of a block are whole and its directions known."""
        group = self.all.number[block]
        weights, tangents = self.meetings.bring(group)
        found = [torch.zeros_like(row) for row in tangents] if back else []
        fixed, leaves, start = {}, [], 0
        for name, tensor in weights.items():
            leaf = self.remote.get(name)
            if leaf is None:
                fixed[name] = tensor
                continue
            part = slice(start, start := start + tensor.numel())
            leaf.whole = tensor
            leaf.tangents = [row[part].view_as(tensor) for row in tangents]
            leaf.products = [row[part].view_as(tensor) for row in found]
            leaves.append(leaf)
        del weights, tangents
        try:
            with substituted(self.model, fixed):
                yield
        finally:
            for leaf in leaves:
                leaf.whole, leaf.tangents, leaf.products = None, [], []
        if back:
            self.meetings.add(group, found)

"""Autograd graphs of all batches, kept between products while they fit and hold."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sized
from contextlib import AbstractContextManager, closing
from inspect import ismethod
from typing import Any, Generic, TypeVar
from weakref import WeakMethod

from torch import Tensor
from torch.overrides import TorchFunctionMode

from hesscope.autodiff.recomputed import TOLD, recomputes
from hesscope.autodiff.snapshot import Snapshot
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.problem import Problem
from hesscope.problem.surroundings import twice_differentiable
from hesscope.problem.turns import taken
from hesscope.system import collectives
from hesscope.system.agreement import Same, together
from hesscope.system.memory import available_bytes, human, is_out_of_memory

KEPT_SHARE = 0.4  # of the free memory that kept graphs may take

Graph = TypeVar("Graph")


class KeptGraphs(Generic[Graph]):
    """One graph per batch, built on first use, rebuilt when parameters or buffers have changed.

    When the graphs of all batches would not fit in `memory` bytes, or the batches are read anew at
    every pass, each graph is built for each product and dropped after it.
    """

    def __init__(
        self,
        problem: Problem,
        build: Callable[[Evaluation, Batch], Graph],
        size_of: Callable[[Graph], int],
        memory: int | None = None,
    ) -> None:
        self.problem, self.size_of, self.memory = problem, size_of, memory
        # A method of the operator that owns this: held weakly, or both would live on, with model
        # and graphs, until the garbage collector comes.
        self._build = WeakMethod(build) if ismethod(build) else lambda: build
        self.graph_bytes = 0
        self.keep: bool | None = None
        self._kept: list[tuple[Batch, Graph]] = []
        self._snapshot: Snapshot | None = None
        self._recomputes = self._hooked = False
        self._why = ""  # the graphs are not kept

    def build(self, e: Evaluation, batch: Batch) -> Graph:
        """The graph of one batch.

        Raises:
            ReferenceError: if the operator that this belongs to is gone.
        """
        build: Callable[[Evaluation, Batch], Graph] | None = self._build()
        if build is None:
            msg = "the operator that these graphs belong to is gone; keep it as long as them."
            raise ReferenceError(msg)
        with _Hooks() as hooks:
            graph = build(e, batch)
        self._hooked = self._hooked or hooks.seen
        return graph

    def each(self) -> Generator[tuple[Batch, Graph], None, None]:
        """Each batch with its graph, in the surroundings that passes through it need."""
        if self.keep is None or (self.keep and not self.fresh()):
            self._build_all()
        if self.keep:
            with self._surroundings():
                yield from self._kept
            return
        with self.problem.evaluation() as e:
            for batch in e.batches:
                yield batch, self.build(e, batch)

    def note_calls(self, calls: Sized) -> None:
        """Tells that a backward pass has called the model: checkpointing, which runs it again."""
        self._recomputes = self._recomputes or len(calls) > 0

    def mean(self, apply: Callable[[Graph], Tensor], V: Tensor) -> Tensor:
        """The mean over batches and processes of what `apply` makes of each graph and of V.

        Raises:
            RuntimeError: if the processes differ in V or in their parameters, or one does not come.
        """
        total: Tensor | None = None
        # An error must not leave the graphs to the garbage collector, nor other processes waiting.
        with together(), closing(self.each()) as each:
            for batch, graph in each:
                weight, part = batch.count / self.problem.num_items, apply(graph)
                if total is None:
                    total = part if weight == 1 else part * weight
                else:
                    total.add_(part, alpha=weight)
        point = self.problem.point
        vectors = Same("vectors", ("block of vectors",), lambda: (V,))
        parameters = Same("parameters", point.layout.names, point.leaves)
        same = vectors, parameters
        return collectives.sum_over_processes(total, same=same, device=point.device)

    def facts(self) -> dict[str, Any]:
        """Whether the graphs are kept, and their size."""
        mode = {True: "graph kept", False: "graph rebuilt", None: "not used yet"}[self.keep]
        again = "saves no memory here, and runs the model again for every product"
        said = {"checkpointing": again} if self._recomputes else {}
        why = {"why": self._why} if self.keep is False else {}
        return {"graph": mode, "graph_bytes": self.graph_bytes, **why, **said}

    def _surroundings(self) -> AbstractContextManager[Any]:
        """What passes through kept graphs need: a turn; more where they run code of the user's.

        Which kernels there are was decided when the graphs were built, so nothing is switched:
        switches cost up to a tenth of the product of a small network.
        """
        point = self.problem.point
        if self._recomputes:
            return self.problem.evaluation()
        if self._hooked:
            return twice_differentiable(point.model, point.device)
        return taken(point.model)

    def _build_all(self) -> None:
        """Builds the graph of each batch; gives up keeping them when they would not fit.

        Raises:
            MemoryError: if there is no room for one alone.
            RuntimeError: likewise, or if one cannot be built.
        """
        self._kept, self._snapshot, self.graph_bytes = [], None, 0
        batches = self.problem.batches
        self.keep = batches.cached
        budget = KEPT_SHARE * available_bytes(self.problem.device)
        budget = budget if self.memory is None else self.memory
        with self.problem.evaluation() as e:
            for batch in batches:
                try:
                    graph = self.build(e, batch)
                except (RuntimeError, MemoryError) as error:
                    if not self._kept or not is_out_of_memory(error):
                        raise
                    self._kept, self.keep = [], False  # one at a time, there may be room
                    self._why = "memory ran out for the graphs of all batches"
                    return
                self.graph_bytes += self.size_of(graph)
                expected = self.graph_bytes * len(batches) / (len(self._kept) + 1)
                if not batches.cached or expected > budget:
                    self._kept, self.keep = [], False
                    self._why = "the data is read anew at every pass"
                    if batches.cached:
                        sizes = f"about {human(expected)} of {human(budget)} that they may"
                        self._why = f"the graphs of all batches would take {sizes}"
                    return
                self._kept.append((batch, graph))
        self._snapshot = Snapshot(self.problem.point)

    def fresh(self) -> bool:
        """Whether parameters, frozen ones too, and buffers have the values of the kept graphs."""
        return self._snapshot is not None and self._snapshot.holds()


class _Hooks(TorchFunctionMode):
    """Notes whether tensors are saved through hooks, whose code runs in every pass.

    Checkpointing does so: what it makes again may be a function that belongs to no module.
    """

    seen = not TOLD  # in a torch that does not tell, anything may have been

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The function's value."""
        self.seen = self.seen or recomputes()
        return func(*args, **(kwargs or {}))

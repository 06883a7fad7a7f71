"""The engine that chooses: whole graphs while one fits in memory, and else the lean product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hesscope.autodiff.blocks import blocks_of
from hesscope.autodiff.cost import Choice, choose, choose_weights, graph_bytes
from hesscope.autodiff.dual import LeanError
from hesscope.autodiff.lean import Lean
from hesscope.autodiff.reverse import Engine, ReverseOverReverse
from hesscope.problem.problem import Problem
from hesscope.system import collectives
from hesscope.system.agreement import together
from hesscope.system.memory import available_bytes, is_out_of_memory


class Automatic(Engine):
    """Reverse-over-reverse; lean, where memory lacks and the model allows it.

    That is where the graph of a batch does not fit, or whole weights that are cut over processes.
    That is predicted from a few examples before the first product, and seen when memory runs out.
    """

    def __init__(self, problem: Problem, memory: int | None = None) -> None:
        super().__init__(problem)
        self.memory = memory
        self.engine: Engine = ReverseOverReverse(problem, memory)
        self.why = ""
        self._chosen = False
        self._not_lean = ""  # why

    @property
    def in_pieces(self) -> bool:
        """As the chosen engine has it."""
        return self._chosen_engine().in_pieces

    @property
    def weakest(self) -> torch.dtype:
        """The dtype with the fewest digits between theta and the loss."""
        cut = self.problem.point.in_pieces is not None  # else it is the same for all
        return self._chosen_engine().weakest if cut else self.problem.weakest

    def products(self, V: Tensor) -> Tensor:
        """H V, in the way that memory allows.

        Raises:
            MemoryError: if it does not suffice for either.
            RuntimeError: likewise, or if the engine fails.
        """
        found: Tensor = self._tried(lambda engine: engine.products(V))
        return found

    def products_of_shares(self, V: Tensor) -> Tensor | None:
        """The same from shares, if the chosen engine can."""
        found: Tensor | None = self._tried(lambda engine: engine.products_of_shares(V))
        return found

    def _chosen_engine(self) -> Engine:
        if not self._chosen:
            self._choose()
        return self.engine

    def _tried(self, product: Callable[[Engine], Any]) -> Any:
        try:
            return product(self._chosen_engine())
        except LeanError as error:
            self._not_lean = str(error)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not self._may_be_lean():
                raise
        # Outside: the error holds what did not fit.
        if self._not_lean:
            self.engine = ReverseOverReverse(self.problem, self.memory)
        else:
            self.engine = Lean(self.problem)
            self.why = "memory ran out for the graph of a batch"
        return self._tried(product)

    def facts(self) -> dict[str, Any]:
        """Those of the chosen engine, and why it was chosen."""
        more = {"why": self.why, "not lean": self._not_lean}
        return {**{name: fact for name, fact in more.items() if fact}, **self.engine.facts()}

    def _choose(self) -> None:
        """For all processes alike, whose memory and data may differ."""
        self._chosen, problem = True, self.problem
        free, structure = available_bytes(problem.device), problem.point.structure
        with together():
            blocks = len(blocks_of(structure))
        if problem.point.in_pieces is not None:
            choice = choose_weights(structure, free, blocks)
            if self._is_lean(choice, "whole weights would not fit in another process"):
                return
            problem.point.put_together()  # by all, whether or not they have data
        with together():
            choice = choose(graph_bytes(problem), free, blocks)
        self._is_lean(choice, "the graph of a batch would not fit in another process")

    def _is_lean(self, choice: Choice, elsewhere: str) -> bool:
        """Whether it is so in some process, and then in all."""
        self.why = choice.why or self.why
        if collectives.smallest(choice.product != Lean.name) > 0:
            return False
        self.engine = Lean(self.problem)
        if choice.product != Lean.name:
            self.why = elsewhere
        return True

    def _may_be_lean(self) -> bool:
        """Whether the lean product has not been tried, and there are blocks to try it with."""
        fresh = not isinstance(self.engine, Lean) and not self._not_lean
        return fresh and len(blocks_of(self.problem.point.structure)) > 1

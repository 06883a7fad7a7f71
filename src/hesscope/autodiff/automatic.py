"""The engine that chooses: whole graphs while one fits in memory, and else the lean product."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hesscope.autodiff.blocks import blocks_of
from hesscope.autodiff.cost import choose, graph_bytes
from hesscope.autodiff.dual import LeanError
from hesscope.autodiff.lean import Lean
from hesscope.autodiff.reverse import Engine, ReverseOverReverse
from hesscope.problem.problem import Problem
from hesscope.system import collectives
from hesscope.system.agreement import together
from hesscope.system.memory import available_bytes, is_out_of_memory


class Automatic(Engine):
    """Reverse-over-reverse; lean, where the graph of a batch does not fit and the model allows it.

    That is predicted from a few examples before the first product, and seen when memory runs out.
    """

    def __init__(self, problem: Problem, memory: int | None = None) -> None:
        super().__init__(problem)
        self.memory = memory
        self.engine: Engine = ReverseOverReverse(problem, memory)
        self.why = ""
        self._chosen = False
        self._not_lean = ""  # why

    def products(self, V: Tensor) -> Tensor:
        """H V, in the way that memory allows.

        Raises:
            MemoryError: if it does not suffice for either.
            RuntimeError: likewise, or if the engine fails.
        """
        if not self._chosen:
            self._choose()
        try:
            return self.engine.products(V)
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
        return self.products(V)

    def facts(self) -> dict[str, Any]:
        """Those of the chosen engine, and why it was chosen."""
        more = {"why": self.why, "not lean": self._not_lean}
        return {**{name: fact for name, fact in more.items() if fact}, **self.engine.facts()}

    def _choose(self) -> None:
        """For all processes alike, whose memory and data may differ."""
        self._chosen, problem = True, self.problem
        with together():
            blocks = len(blocks_of(problem.model))
            choice = choose(graph_bytes(problem), available_bytes(problem.device), blocks)
        self.why = choice.why
        if collectives.smallest(choice.product != Lean.name) == 0:
            self.engine = Lean(problem)
            if choice.product != Lean.name:
                self.why = "the graph of a batch would not fit in another process"

    def _may_be_lean(self) -> bool:
        """Whether the lean product has not been tried, and there are blocks to try it with."""
        fresh = not isinstance(self.engine, Lean) and not self._not_lean
        return fresh and len(blocks_of(self.problem.model)) > 1

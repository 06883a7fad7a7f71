"""The Hessian of a problem's mean loss as a symmetric operator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hesscope.autodiff.differences import CentralDifference
from hesscope.autodiff.lean import Lean
from hesscope.autodiff.products import make_engine
from hesscope.curvature.double import error_of_product
from hesscope.curvature.shared import SharedOperator
from hesscope.operator import SpectralForm
from hesscope.perceptron.assembly import dense_hessian
from hesscope.perceptron.mlp import MLP, recognise
from hesscope.perceptron.reductions import reduce, reduced_hessian
from hesscope.problem.halves import in_halves
from hesscope.problem.problem import Problem
from hesscope.problem.turns import LOCK
from hesscope.system.agreement import together
from hesscope.system.memory import is_out_of_memory


class Hessian(SharedOperator):
    """H = ∂²L/∂theta², (n, n), of the mean loss L, in units of the loss per squared parameter.

    Args:
        problem: the problem; its current parameters are used at every product.
        product: "auto", "reverse-over-reverse", "lean", "forward-over-reverse",
            "finite-difference", or `CentralDifference(step=...)`. "auto" is reverse-over-reverse
            where memory holds the graph of one batch, and else lean if the model allows it. Weights
            that are cut over processes are whole in each of them, but one block at a time if lean.
        memory: bytes that kept gradient graphs may take; by default 40 % of what is free.

    A product costs about 2 gradients with a kept graph, 3 without, 2 or 1 as a difference, and up
    to 4 where it is lean: then it takes less memory than a gradient, for blocks of the model (the
    modules of one class in an nn.ModuleList or nn.Sequential, some eight or more) are run again
    instead of kept. It is exact to rounding (in float32 a relative error of 1e-7 to 1e-6 on smooth
    networks); finite differences state their own error in `facts()`. ReLU networks: the Hessian
    away from the kinks, as autograd sees it.

    Raises:
        ValueError: if `product` names no engine, or the lean one finds no blocks.
        RuntimeError: at the first product, if the model has no trustworthy second derivative; the
            message names the operation and what to do.

    >>> import torch, hesscope as hs
    >>> problem = hs.Problem.from_function(lambda t: (t[0] * t[1]) ** 2, torch.ones(2))
    >>> hs.Hessian(problem).to_dense()
    tensor([[2., 4.],
            [4., 2.]])
    """

    def __init__(
        self,
        problem: Problem,
        product: str | CentralDifference = "auto",
        *,
        memory: int | None = None,
    ) -> None:
        super().__init__(problem)
        self._engine = partial(make_engine, product=product, memory=memory)
        self.engine, self.halvings = self._engine(problem), 0
        self._any_engine = product == "auto"

    def matmat(self, V: Tensor) -> Tensor:
        """H V for V of shape (n, k); the gradient graph is built once for all columns.

        Where memory runs out, batches are halved, if the loss allows it, and it is tried again.

        Raises:
            RuntimeError: if a product cannot be had, or memory does not suffice for any batch.
        """
        found: Tensor = self._tried(lambda: self.engine.products(V))
        return found

    @property
    def _by_pieces(self) -> bool:
        return self.engine.in_pieces

    def _piece_of_product(self, V: Tensor) -> Tensor | None:
        found: Tensor | None = self._tried(lambda: self.engine.products_of_shares(V))
        return found

    def _tried(self, product: Callable[[], Any]) -> Any:
        while True:
            try:
                return product()
            except Exception as error:
                if not is_out_of_memory(error) or self.engine.in_pieces:
                    raise
            self._halve()  # outside: the error holds what did not fit

    def _halve(self) -> None:
        problem = self.engine.problem
        self.engine = self._engine(problem)  # without the graphs that were kept
        with together():
            self.engine = self._engine(in_halves(problem))
        self.halvings += 1

    def measured_noise(self, v: Tensor) -> float:
        """‖H v - H₆₄ v‖ on at most 128 examples, for a problem that is not in float64.

        Zero where no process holds all weights: then nothing is known.
        """
        if self.engine.in_pieces:
            return 0.0
        lean = self.engine.facts()["product"] == Lean.name
        # In as little memory as its own products: no graph is kept once these are made.
        once = partial(Hessian, product=Lean.name if lean else "auto", memory=0)
        return error_of_product(self.problem, once, v, own=self)

    @property
    def precision(self) -> torch.dtype:
        """The dtype with the fewest digits between theta and the loss, whatever theta is in."""
        return self.engine.weakest

    def to_dense(self, *, chunk: int = 64) -> Tensor:
        """H itself, (n, n): by matrix products for multilayer perceptrons, else by n products."""
        with LOCK:  # what is read of the model is nobody else's copy in float64
            mlp = self._perceptron()
            return super().to_dense(chunk=chunk) if mlp is None else dense_hessian(mlp)

    def spectral_form(self) -> SpectralForm:
        """For multilayer perceptrons PᵀHP, without the zeros that data and model explain."""
        with LOCK:
            mlp = self._perceptron()
            reduction = None if mlp is None else reduce(mlp)
        if reduction is None:
            return super().spectral_form()

        def assemble() -> Tensor:
            with LOCK:
                return reduced_hessian(reduction)

        return SpectralForm(
            size=reduction.size,
            assemble=assemble,
            how="matrix products over examples, exact zeros taken out",
            zeros=reduction.zeros,
        )

    def _perceptron(self) -> MLP | None:
        return recognise(self.problem) if self._any_engine else None

    def facts(self) -> dict[str, Any]:
        """The facts of the operator, the problem and the engine."""
        halved = {"batches halved": self.halvings} if self.halvings else {}
        return {**super().facts(), **self.problem.facts(), **self.engine.facts(), **halved}

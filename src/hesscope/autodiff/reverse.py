"""Hessian-vector products in reverse mode over reverse mode (Pearlmutter 1994)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from hesscope.autodiff.graph import differentiably, kept_bytes, refuse_broken
from hesscope.autodiff.kept import KeptGraphs
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.parameters import Layout, flatten
from hesscope.problem.problem import Problem
from hesscope.problem.surroundings import calls_of


class Engine(ABC):
    """Multiplies the Hessian of a problem with a block of vectors."""

    name: str

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @abstractmethod
    def products(self, V: Tensor) -> Tensor:
        """H V for V of shape (n, k)."""

    @property
    def in_pieces(self) -> bool:
        """Whether no process holds all weights, or has to."""
        return False

    @property
    def weakest(self) -> torch.dtype:
        """The dtype with the fewest digits between theta and the loss."""
        return self.problem.weakest

    def products_of_shares(self, V: Tensor) -> Tensor | None:  # noqa: ARG002  engines that can
        """The share of H V that this process holds, from its share of V; None if it cannot."""
        return None

    def facts(self) -> dict[str, Any]:
        """What a reader of a result should know about the products."""
        return {"product": self.name}


class ReverseOverReverse(Engine):
    """H v = gradient of (gradient · v), from a graph of the gradient that is kept if it fits.

    A kept graph costs about two gradients per product and is dropped when the parameters or
    buffers have changed under it, however they were changed.
    """

    name = "reverse-over-reverse"

    def __init__(self, problem: Problem, memory: int | None = None) -> None:
        super().__init__(problem)
        self.graphs = KeptGraphs(problem, self._build, lambda kept: kept_bytes(kept[1]), memory)
        self._scanned = False
        self.missed: set[str] = set()  # functions called in a way that has no kernel of ours

    def products(self, V: Tensor) -> Tensor:
        """H V: the graphs of all batches are built once and applied to every column."""
        layout = self.problem.layout
        return self.graphs.mean(
            lambda kept: _apply(layout, kept[1], kept[0], V, keep=bool(self.graphs.keep)), V
        )

    def facts(self) -> dict[str, Any]:
        """The engine, whether its graphs are kept, their size, and what torch's own kernels do."""
        missed = {"torch's own kernels": ", ".join(sorted(self.missed))} if self.missed else {}
        return {"product": self.name, **self.graphs.facts(), **missed}

    def _build(self, e: Evaluation, batch: Batch) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """The gradient of a batch with its graph; refused if it cannot be differentiated again."""
        loss = differentiably(
            e.model, lambda: e.finite_loss(batch), lambda loss: loss, heads=True, missed=self.missed
        )
        with calls_of(e.model) as calls:
            gradient = e.derivatives(loss, create_graph=True)
        self.graphs.note_calls(calls)
        if not self._scanned:
            refuse_broken(gradient, loss)
            self._scanned = True
        return e.leaves, gradient


def gradient_and_product(e: Evaluation, batch: Batch, V: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the loss of one batch, (n,), and its Hessian times V (n, k)."""
    loss = differentiably(e.model, lambda: e.finite_loss(batch), lambda loss: loss, heads=True)
    gradient = e.derivatives(loss, create_graph=True)
    return flatten(gradient).detach(), _apply(e.point.layout, gradient, e.leaves, V, keep=False)


def _apply(
    layout: Layout, gradient: tuple[Tensor, ...], leaves: list[Tensor], V: Tensor, *, keep: bool
) -> Tensor:
    """Σ_i v_i ∂gradient_i/∂theta for every column v; gradients that are constant add zero.

    A graph that is not to be kept is let go on the way through the last column.
    """
    active = [i for i, g in enumerate(gradient) if g.requires_grad]
    if not active:
        return torch.zeros_like(V)
    outputs = [gradient[i] for i in active]
    columns = []
    for j, v in enumerate(V.unbind(1)):
        pieces = layout.split(v.contiguous())
        weights = [pieces[i] for i in active]
        product = _differentiate(outputs, leaves, weights, keep=keep or j < V.shape[1] - 1)
        columns.append(flatten(product))
    return torch.stack(columns, 1)


def _differentiate(
    outputs: list[Tensor], leaves: list[Tensor], weights: list[Tensor], *, keep: bool
) -> tuple[Tensor, ...]:
    """The gradient of the weighted sum of the outputs.

    Raises:
        RuntimeError: if torch has no second derivative for an operation of the model.
    """
    try:
        return torch.autograd.grad(
            outputs, leaves, weights, retain_graph=keep, allow_unused=True, materialize_grads=True
        )
    except NotImplementedError as error:
        raise RuntimeError(not_implemented(error)) from error


def not_implemented(error: NotImplementedError) -> str:
    """What it means that torch has no second derivative of an operation, and what to do."""
    return (
        f"this model has no second derivative in torch: {str(error).rstrip('.')}. Either replace "
        "the operation named there by its elementary form, or accept an approximation: "
        "Hessian(problem, product='finite-difference')."
    )

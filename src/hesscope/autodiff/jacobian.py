"""Products with the Jacobian of the network's outputs and its transpose, from one kept graph.

With z the outputs of a batch and h(u) = Jᵀu, both linear maps are backward passes: Jᵀw through
the graph of z, and J v through the graph of h, because J v = ∂(h(u)·v)/∂u. No forward-mode
differentiation is needed, so every layer with a second derivative will do.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hesscope.autodiff.graph import differentiably, kept_bytes
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.examples import num_examples, take
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem
from hesscope.problem.surroundings import calls_of


@dataclass(frozen=True)
class Jacobian:
    """J = ∂z/∂theta of one batch, as graphs of its products."""

    outputs: Tensor  # z, with its graph
    targets: Any
    leaves: list[Tensor]
    cotangent: Tensor  # u
    pulled_back: tuple[Tensor, ...]  # h(u) = Jᵀu, with its graph
    calls: Sized  # of the model during that backward pass: none, unless it checkpoints

    def forward(self, pieces: list[Tensor]) -> Tensor:
        """J v in the shape of the outputs, for v in the shapes of the parameters."""
        active = [i for i, h in enumerate(self.pulled_back) if h.requires_grad]
        if not active:
            return torch.zeros_like(self.outputs)
        (product,) = torch.autograd.grad(
            [self.pulled_back[i] for i in active],
            self.cotangent,
            [pieces[i] for i in active],
            retain_graph=True,
            materialize_grads=True,
            allow_unused=True,
        )
        return product

    def transposed(self, w: Tensor) -> Tensor:
        """Jᵀw, (n,), for w in the shape of the outputs."""
        return flatten(
            torch.autograd.grad(
                self.outputs,
                self.leaves,
                w,
                retain_graph=True,
                materialize_grads=True,
                allow_unused=True,
            )
        )

    def kept_bytes(self) -> int:
        """Bytes that the two graphs keep alive."""
        return kept_bytes([self.outputs, *self.pulled_back])


def single_examples(problem: Problem) -> Problem:
    """The same problem with every example as a batch of its own, so that rows of J come apart.

    Raises:
        ValueError: if the examples of a batch cannot be told apart, or are one item together.
    """
    if problem.batches.whole:
        msg = (
            "this needs single examples, but count=1 says that each batch is one item that is "
            "never cut. Give a `count` of examples, if the loss is a mean over them."
        )
        raise ValueError(msg)
    return problem.with_batches(
        [
            take(batch.content, slice(i, i + 1))
            for batch in problem.batches
            for i in range(num_examples(batch.content))
        ]
    )


def output_jacobian(e: Evaluation, batch: Batch) -> Jacobian:
    """The Jacobian of a batch, whose graphs outlive the evaluation."""
    outputs, targets = differentiably(e.model, lambda: e.outputs(batch), lambda pair: pair[0])
    cotangent = torch.zeros_like(outputs, requires_grad=True)
    with calls_of(e.model) as calls:
        pulled_back = torch.autograd.grad(
            outputs,
            e.leaves,
            cotangent,
            create_graph=True,
            materialize_grads=True,
            allow_unused=True,
        )
    return Jacobian(outputs, targets, e.leaves, cotangent, pulled_back, calls)

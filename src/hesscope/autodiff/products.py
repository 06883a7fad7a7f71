"""Hessian-vector products: four engines and the choice between them.

Reverse-over-reverse differentiates the gradient's graph, kept between products when it fits in
memory (Pearlmutter 1994). The lean product is the same, block by block, without that graph.
Forward-over-reverse is exact too and dearer on CPU. Differences of gradients are approximate and
always possible (`differences`). Reverse-over-forward is not offered: it is silently wrong through
LayerNorm and BatchNorm in torch 2.13.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.autodiff.automatic import Automatic
from hesscope.autodiff.broken import UntrustworthyError
from hesscope.autodiff.differences import CentralDifference, FiniteDifference
from hesscope.autodiff.kernels import fast_second_derivatives
from hesscope.autodiff.lean import Lean
from hesscope.autodiff.padding import padding_held
from hesscope.autodiff.reverse import Engine, ReverseOverReverse
from hesscope.problem.calls import NonFiniteLossError
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.parameters import flatten, substituted
from hesscope.problem.problem import Problem


class ForwardOverReverse(Engine):
    """H v = directional derivative of the gradient along v, by forward-mode differentiation."""

    name = "forward-over-reverse"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        _load_function_transforms()
        self._same_loss = False

    def products(self, V: Tensor) -> Tensor:
        """H V, one Jacobian-vector product of the gradient per column and batch."""
        with self.problem.evaluation() as e:
            return e.mean(
                lambda batch: torch.stack([self._product(e, batch, v) for v in V.unbind(1)], 1)
            )

    def _product(self, e: Evaluation, batch: Batch, v: Tensor) -> Tensor:
        names, points = self.problem.layout.names, tuple(leaf.detach() for leaf in e.leaves)

        def loss(*tensors: Tensor) -> Tensor:
            with substituted(e.model, dict(zip(names, tensors, strict=True))):
                return e.finite_loss(batch)

        gradient = torch.func.grad_and_value(loss, argnums=tuple(range(len(points))))
        tangents = tuple(self.problem.layout.split(v.contiguous()))
        quick = fast_second_derivatives(forward_over_reverse=True)
        with quick as mode, padding_held(), _explained():
            (_, value), (product, _) = torch.func.jvp(gradient, points, tangents)[:2]
        if mode.wrong is not None:
            raise UntrustworthyError(mode.wrong)
        if not self._same_loss:
            self._refuse_another_loss(e, batch, float(value.detach()))
        return flatten(product).detach()  # from parameters outside of theta

    def _refuse_another_loss(self, e: Evaluation, batch: Batch, value: float) -> None:
        """Once: is the loss inside torch.func the loss? Dropout draws another mask there.

        Raises:
            RuntimeError: if it is not.
        """
        plain = float(e.finite_loss(batch).detach())
        self._same_loss = True
        if abs(value - plain) > rounding.half_the_digits(self.problem.dtype) * abs(plain):
            msg = (
                f"inside torch.func the loss of batch {batch.index} is {value:.6g} and not "
                f"{plain:.6g}: the model draws other random numbers there (dropout in training "
                "mode). Use the default product='reverse-over-reverse'."
            )
            raise RuntimeError(msg)


@contextmanager
def _explained() -> Iterator[None]:
    """Says what torch's errors in forward mode mean.

    Raises:
        RuntimeError: in place of them.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, (UntrustworthyError, NonFiniteLossError, torch.OutOfMemoryError)):
            raise
        msg = (
            "torch cannot take this derivative in forward mode; use the default product, "
            f"'reverse-over-reverse'. torch says: {error}"
        )
        raise RuntimeError(msg) from error


@cache
def _load_function_transforms() -> None:
    """Lets torch import what their first use imports, in a thread of its own.

    That import keeps the frames of its callers, and all models in them, until the garbage collector
    comes.
    """
    one = torch.ones(1, dtype=torch.float64)

    def square(t: Tensor) -> Tensor:
        return t.square().sum()

    def first_use() -> None:
        torch.func.jvp(torch.func.grad(square), (one,), (one,))

    thread = threading.Thread(target=first_use)
    thread.start()
    thread.join()


def make_engine(problem: Problem, product: str | CentralDifference, memory: int | None) -> Engine:
    """The engine that `Hessian(problem, product=...)` names.

    Raises:
        ValueError: if there is no such engine.
    """
    if isinstance(product, CentralDifference):
        return FiniteDifference(problem, product)
    if product == "auto":
        return Automatic(problem, memory)
    if product in ("reverse-over-reverse", "ror"):
        return ReverseOverReverse(problem, memory)
    if product == "lean":
        return Lean(problem)
    if product in ("forward-over-reverse", "for"):
        return ForwardOverReverse(problem)
    if product in ("finite-difference", "fd"):
        return FiniteDifference(problem, CentralDifference())
    msg = (
        f"product={product!r} is not an engine; choose 'auto', 'reverse-over-reverse', "
        "'lean', 'forward-over-reverse', 'finite-difference' or CentralDifference(step=...). "
        "Reverse-over-forward is not offered because torch computes it wrongly."
    )
    raise ValueError(msg)

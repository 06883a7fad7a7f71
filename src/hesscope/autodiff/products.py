"""Hessian-vector products: three engines and the choice between them.

Reverse-over-reverse differentiates the gradient's graph, kept between products when it fits in
memory (Pearlmutter 1994). Forward-over-reverse is exact too and dearer on CPU. Central differences
of gradients are approximate and always possible. Reverse-over-forward is not offered: it is
silently wrong through LayerNorm and BatchNorm in torch 2.13.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hesscope import probes, rounding
from hesscope.autodiff.broken import UntrustworthyError
from hesscope.autodiff.graph import differentiably, kept_bytes, refuse_broken
from hesscope.autodiff.kept import KeptGraphs
from hesscope.autodiff.kernels import fast_second_derivatives
from hesscope.autodiff.padding import padding_held
from hesscope.problem.calls import NonFiniteLossError
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.parameters import flatten, substituted
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
        return self.graphs.mean(lambda kept: self._apply(kept[1], kept[0], V))

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

    def _apply(self, gradient: tuple[Tensor, ...], leaves: list[Tensor], V: Tensor) -> Tensor:
        """Σ_i v_i ∂gradient_i/∂theta for every column v; gradients that are constant add zero."""
        active = [i for i, g in enumerate(gradient) if g.requires_grad]
        if not active:
            return torch.zeros_like(V)
        outputs = [gradient[i] for i in active]
        columns = []
        for v in V.unbind(1):
            pieces = self.problem.layout.split(v.contiguous())
            product = _differentiate(outputs, leaves, [pieces[i] for i in active])
            columns.append(flatten(product))
        return torch.stack(columns, 1)


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


@dataclass(frozen=True)
class CentralDifference:
    """Asks `Hessian` for finite differences, (g(theta + h v) - g(theta - h v)) / 2h for unit v.

    With step None, h is chosen once, at the first product, along the gradient and a random
    direction, and kept, so that all products belong to one operator.

    >>> import torch, hesscope as hs
    >>> problem = hs.Problem.from_function(lambda t: (t**3).sum(), torch.ones(1).double())
    >>> H = hs.Hessian(problem, product=hs.CentralDifference(step=1e-3))
    >>> (H @ torch.ones(1)).round(decimals=6)  # 6 t, exact for a cubic
    tensor([6.], dtype=torch.float64)
    """

    step: float | None = None

    def __post_init__(self) -> None:
        """Refuses a step of no length.

        Raises:
            ValueError: if the step is not positive.
        """
        if self.step is not None and not self.step > 0:
            msg = f"step={self.step} of a difference must be positive; None chooses it."
            raise ValueError(msg)


KRYLOV = 3  # vectors of a Krylov space in which finite differences estimate their error
MARGIN = 2.0  # for the directions that are not tried: 1 % of products exceed it on small networks


class FiniteDifference(Engine):
    """H v from two gradients at theta ± h v/‖v‖; approximate, with an error estimate.

    D(h) has a truncation error T h² and a rounding error of size ρ/h, another one at each step, so
    ‖D(h) - D(2h)‖² = 9 T²h⁴ + 5/4 ρ²/h² on average, and 4/5 of it bounds the squared error
    T²h⁴ + ρ²/h². At the step that makes it smallest the bound is 1.2 times the error itself. The
    stated error is twice the worst of five directions, relative to ‖Hv‖; where v is flatter than a
    random direction, relative to what ‖Hv‖ is in that one.

    Across the kinks of ReLU or max-pooling it measures the curvature smoothed over the radius h,
    which is not the Hessian that automatic differentiation computes.
    """

    name = "finite-difference"

    def __init__(self, problem: Problem, step: float | None = None) -> None:
        super().__init__(problem)
        self.step = step
        self.relative_error: float | None = None
        self._point: Tensor | None = None  # theta, and there:
        self._padding: dict[int, list[Tensor]] = {}  # what lookups of padding find, by batch
        self._differentiated = False  # whether the loss takes derivatives itself

    def products(self, V: Tensor) -> Tensor:
        """H V from two gradients per column."""
        theta = self.problem.theta
        if self._point is None or not torch.equal(self._point, theta):
            self._look_at(theta)
        if self.relative_error is None:
            self._choose_step()
        assert self.step is not None
        return torch.stack([self._product(theta, v, self.step) for v in V.unbind(1)], 1)

    def facts(self) -> dict[str, Any]:
        """The engine, its step and its estimated relative error."""
        return {"product": self.name, "step": self.step, "relative_error": self.relative_error}

    def _look_at(self, theta: Tensor) -> None:
        """Notes what the loss does at theta, in one forward pass."""
        self._point = theta
        with self.problem.evaluation() as e:
            for batch in e.batches:
                with padding_held() as padding, fast_second_derivatives() as mode:
                    e.finite_loss(batch)
                self._padding[batch.index] = padding.rows
                self._differentiated = self._differentiated or mode.differentiated

    def _gradient(self, theta: Tensor) -> Tensor:
        """The gradient at theta, its derivatives of normalisations right and its padding held."""
        moved = self.problem.at(theta)

        def of_batch(batch: Batch) -> Tensor:
            held = padding_held(self._padding[batch.index])
            with fast_second_derivatives(normalisations=self._differentiated), held:
                return e.gradient(batch)

        with moved.evaluation() as e:
            return e.mean(of_batch)

    def _product(self, theta: Tensor, v: Tensor, step: float) -> Tensor:
        norm = float(v.norm())
        if norm == 0:
            return torch.zeros_like(v)
        h = step / norm
        return (self._gradient(theta + h * v) - self._gradient(theta - h * v)) / (2 * h)

    def _choose_step(self) -> None:
        """The step with the smallest error, worst of two directions; and the error there, anew.

        A sharp direction (the gradient) and a typical one (a random probe) bracket what Lanczos
        will ask. The smallest of many estimates is too small, so in the end another probe and its
        first Krylov vectors, which are sharper still, take part.
        """
        assert self._point is not None
        theta, gradient = self._point, self._gradient(self._point)
        probe, fresh = (
            probes.gaussian(len(theta), own, dtype=theta.dtype, device=theta.device)
            for own in (probes.key(0, "step of a difference", i) for i in range(2))
        )
        start = self.step or (1e-4 if theta.dtype == torch.float64 else 3e-3)
        ladder = [start] if self.step else [start * 4.0**j for j in range(-3, 4)]
        errors = [max(self._estimate(theta, v, h)[0] for v in (gradient, probe)) for h in ladder]
        best = min(range(len(ladder)), key=errors.__getitem__)
        self.step, worst, v = ladder[best], errors[best], fresh
        for _ in range(KRYLOV):
            error, v = self._estimate(theta, v, self.step)
            worst = max(worst, error)
        self.relative_error = MARGIN * worst

    def _estimate(self, theta: Tensor, v: Tensor, h: float) -> tuple[float, Tensor]:
        """√(4/5) ‖D(h) - D(2h)‖ relative to the least that ‖Hv‖ can be, and D(h), for unit v."""
        v = v / v.norm().clamp_min(rounding.tiny(v.dtype))
        fine, coarse = self._product(theta, v, h), self._product(theta, v, 2 * h)
        error = 0.8**0.5 * float((fine - coarse).norm())
        if error == 0:
            return 0.0, fine
        size = min(float(fine.norm()), float(coarse.norm())) - error
        return (error / size if size > 0 else math.inf), fine


def make_engine(problem: Problem, product: str | CentralDifference, memory: int | None) -> Engine:
    """The engine that `Hessian(problem, product=...)` names.

    Raises:
        ValueError: if there is no such engine.
    """
    if isinstance(product, CentralDifference):
        return FiniteDifference(problem, product.step)
    if product in ("auto", "reverse-over-reverse", "ror"):
        return ReverseOverReverse(problem, memory)
    if product in ("forward-over-reverse", "for"):
        return ForwardOverReverse(problem)
    if product in ("finite-difference", "fd"):
        return FiniteDifference(problem)
    msg = (
        f"product={product!r} is not an engine; choose 'auto', 'reverse-over-reverse', "
        "'forward-over-reverse', 'finite-difference' or CentralDifference(step=...). "
        "Reverse-over-forward is not offered because torch computes it wrongly."
    )
    raise ValueError(msg)


def _differentiate(
    outputs: list[Tensor], leaves: list[Tensor], weights: list[Tensor]
) -> tuple[Tensor, ...]:
    """The gradient of the weighted sum of the outputs, from a graph that stays.

    Raises:
        RuntimeError: if torch has no second derivative for an operation of the model.
    """
    try:
        return torch.autograd.grad(
            outputs, leaves, weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    except NotImplementedError as error:
        raise RuntimeError(_not_implemented(error)) from error


def _not_implemented(error: NotImplementedError) -> str:
    return (
        f"this model has no second derivative in torch: {str(error).rstrip('.')}. Either replace "
        "the operation named there by its elementary form, or accept an approximation: "
        "Hessian(problem, product='finite-difference')."
    )

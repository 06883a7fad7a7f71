"""The problem on a few examples or on all, in float64, and which errors rounding explains there."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.autodiff.graph import KINKS, elementary_gradient, gradient_graph, node_names
from hesscope.autodiff.reverse import ReverseOverReverse
from hesscope.checks.examples import few_examples, whole_batches
from hesscope.problem.calls import NonFiniteLossError
from hesscope.problem.data import Batch
from hesscope.problem.precision import Lifted, Noting, Weakest
from hesscope.problem.problem import Problem


@dataclass(frozen=True)
class Tolerances:
    """Steps of differences, relative to θ, and the relative errors that rounding explains."""

    steps_first: tuple[float, ...]
    steps_second: tuple[float, ...]
    first: float  # of loss differences
    second: float  # of gradient differences
    symmetry: float


# In float64 sixty healthy models stay below 1e-7, at four times their parameters, too.
FINE = Tolerances((1e-3, 1e-4, 1e-5, 1e-6), (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-3), 1e-4, 1e-4, 1e-4)
COARSE = Tolerances(
    (1e-1, 3e-2, 1e-2, 3e-3, 1e-3), (1e-1, 3e-2, 1e-2, 3e-3, 1e-3), 2e-2, 5e-2, 1e-1
)


@dataclass(frozen=True)
class Sample:
    """A problem with a precision in which it is evaluated, and what is allowed for in it."""

    problem: Problem
    dtype: torch.dtype  # the weakest on the way to the loss
    lifted: bool  # whether casts inside the model are made to float64
    kinks: bool
    allowed: Tolerances
    own: Problem | None = None  # the same examples in the precision that they are in
    floor: tuple[float, float] = (0.0, 0.0)  # a loss and a gradient whose rounding is in these

    @property
    def double(self) -> bool:
        """Whether all of the loss is computed in float64."""
        return self.dtype == torch.float64

    def precision(self) -> AbstractContextManager[Any]:
        """Inside, the problem is evaluated as the sample asks for."""
        return Lifted() if self.lifted else nullcontext()

    def at(self, theta: Tensor) -> Sample:
        """The same at other parameters."""
        return replace(self, problem=self.problem.at(theta))

    def over(self, problem: Problem) -> Sample:
        """The same for another problem of the same model."""
        return replace(self, problem=problem)

    def larger(self, times: float) -> Sample:
        """The same with larger parameters."""
        return self.at(times * self.problem.theta)

    @cached_property
    def loss(self) -> float:
        """The mean loss."""
        with self.precision():
            return self.problem.loss()

    @cached_property
    def gradient(self) -> Tensor:
        """Its gradient, (n,)."""
        with self.precision():
            return self.problem.gradient()

    @cached_property
    def with_floor(self) -> Sample:
        """The same, with more explained by rounding: small values may come from large ones.

        A loss of 1e-13 is log(1 + 1e-13), right to 1e-16. How large such numbers are shows where
        parameters are 4 and 16 times smaller. Two losses and gradients more.
        """
        sizes = [(self.loss, float(self.gradient.norm()))]
        for times in (1 / 4, 1 / 16):
            near = self.larger(times)
            try:
                sizes.append((near.loss, float(near.gradient.norm())))
            except NonFiniteLossError:  # nothing is known there
                continue
        losses, gradients = zip(*sizes, strict=True)
        return replace(self, floor=(max(map(abs, losses)), max(gradients)))

    def elementary_gradient(self) -> Tensor | None:
        """The gradient with normalisations in elementary form, where the loss differentiates."""
        with self.precision():
            return elementary_gradient(self.problem)

    def products(self, V: Tensor) -> Tensor:
        """H V; two matvecs' worth for a graph and one for each column."""
        with self.precision():
            return ReverseOverReverse(self.problem).products(V)


def small_problem(problem: Problem) -> Sample:
    """The problem on a few examples of all batches, in float64 if model and loss allow it.

    What they cast to float32 inside is then in float64, too, unless that changes the loss.

    Raises:
        ValueError: if the model fails on a few examples and on whole batches.
        OutOfMemoryError: if memory runs out, which says nothing about the model.
    """
    try:
        return _sampled(problem, _accepted(problem, few_examples(problem)))
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError):  # a batch is more than its examples: a graph, one system
        return _sampled(problem, whole_batches(problem))


def _accepted(problem: Problem, contents: list[Any]) -> list[Any]:
    """Those that the model takes and has a finite loss of; whole batches where there are none.

    A text of 3 words, cut out of a batch as long as 7, is no batch for a model that packs its
    sequences. A forward pass each.
    """
    few = problem.with_batches(contents)
    found = []
    with few.evaluation() as e:
        for batch in few.batches:
            try:
                finite = bool(e.loss(batch).isfinite())
            except ValueError:  # what the user's code raises
                finite = False
            found += [batch.content] if finite else []
    return found or whole_batches(problem)


def _sampled(problem: Problem, contents: list[Any]) -> Sample:
    """The sample in the best precision there is, and beside it the same examples in their own."""
    own = problem.with_batches(contents)
    return replace(_most_precise(own, contents), own=own)


def _most_precise(own: Problem, contents: list[Any]) -> Sample:
    plain = _in_double(own, contents, lifted=False)
    if plain is not None and _weakest(plain) == torch.float64:
        return plain
    lifted = _in_double(own, contents, lifted=True)
    if lifted is not None and lifted.double and (plain is None or _same_loss(plain, lifted)):
        return lifted
    if plain is not None and plain.double:  # only constants are in float32
        return plain
    return _seen(own, lifted=False)


def _in_double(problem: Problem, contents: list[Any], *, lifted: bool) -> Sample | None:
    """The sample in float64, or None where model or loss fail in it.

    Raises:
        OutOfMemoryError: if memory runs out.
    """
    try:
        return _seen(problem.in_double(contents), lifted=lifted)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError):
        return None


def _seen(problem: Problem, *, lifted: bool) -> Sample:
    """What one gradient with its graph tells of a problem: its precision and its kinks."""
    mode = Lifted() if lifted else Noting()
    with problem.evaluation() as e, mode:
        _, gradient = gradient_graph(e, e.batches.first)
    kinks = any(k in name for name in node_names(gradient) for k in KINKS)
    allowed = FINE if mode.weakest == torch.float64 else COARSE
    return Sample(problem, mode.weakest, lifted, kinks, allowed)


def _weakest(sample: Sample) -> torch.dtype:
    return weakest_of_all(sample.problem, sample.problem.batches.first)


def weakest_of_all(problem: Problem, batch: Batch) -> torch.dtype:
    """The dtype with the fewest digits of all steps to the loss, of those of constants, too.

    Parts of a batch have other constants than the whole (a sum of weights), with other roundings.
    Costs one forward pass, in which every operation is looked at.
    """
    with problem.evaluation() as e, Weakest(problem.dtype) as seen:
        e.loss(batch)
    return seen.dtype


def _same_loss(plain: Sample, lifted: Sample) -> bool:
    gap = abs(plain.loss - lifted.loss)
    return gap <= rounding.loss_tolerance(plain.dtype) * max(abs(plain.loss), abs(lifted.loss))

"""Differences of a loss and of its gradient against what autograd says, on a few examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hesscope import probes, rounding
from hesscope.autodiff.graph import KINKS, gradient_graph, node_names
from hesscope.autodiff.products import ReverseOverReverse
from hesscope.problem.examples import num_examples, take
from hesscope.problem.problem import Problem

EXAMPLES = 8  # for finite differences: few, so that a small step crosses no kink of a ReLU


@dataclass(frozen=True)
class Sample:
    """The problem on a few examples, and the errors that rounding explains in its precision."""

    problem: Problem
    double: bool
    kinks: bool
    steps_first: tuple[float, ...]
    steps_second: tuple[float, ...]
    first: float  # allowed relative error of loss differences
    second: float  # allowed relative error of gradient differences
    symmetry: float


def small_problem(problem: Problem) -> Sample:
    """The problem on a few examples of the first batch, in float64 if model and loss allow it."""
    content = next(iter(problem.batches)).content
    small = content if problem.batches.whole else _few(content)
    if float(problem.batches.count_of(small)) <= 0:
        small = content
    try:
        sample = problem.in_double([small])
        double = _loss_dtype(sample) == torch.float64
    except (ValueError, RuntimeError):
        sample, double = problem.with_batches([small]), False
    if problem.dtype == torch.float64:
        double = _loss_dtype(sample) == torch.float64
    with sample.evaluation() as e:
        _, gradient = gradient_graph(e, next(iter(e.batches)))
        kinks = any(k in name for name in node_names(gradient) for k in KINKS)
    if double:
        fine = (1e-3, 1e-4, 1e-5, 1e-6)
        return Sample(sample, True, kinks, fine, (*fine[1:], 1e-7, 1e-8), 1e-4, 1e-3, 1e-4)
    steps = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
    return Sample(sample, False, kinks, steps, steps, 2e-2, 5e-2, 1e-1)


def few_examples(problem: Problem) -> Problem:
    """The problem on a few examples of the first batch."""
    content = next(iter(problem.batches)).content
    return problem.with_batches([content if problem.batches.whole else _few(content)])


def _few(content: Any) -> Any:
    try:
        return take(content, slice(0, EXAMPLES)) if num_examples(content) > EXAMPLES else content
    except ValueError:  # the examples of a batch cannot be told apart: take all of it
        return content


def _loss_dtype(problem: Problem) -> torch.dtype:
    with problem.evaluation() as e:
        return e.finite_loss(next(iter(e.batches))).dtype


def direction(problem: Problem, seed: int) -> Tensor:
    """A random direction in which every parameter tensor moves in proportion to its own norm."""
    own = probes.key(seed, "direction of a check")
    z = probes.gaussian(problem.n, own, dtype=problem.dtype, device=problem.device)
    directions = problem.layout.split(z)
    for name, row in _padding_rows(problem.model).items():
        if name in problem.layout.names:
            directions[problem.layout.names.index(name)][row] = 0
    pieces = [
        d * (own.norm() + 1e-2 * own.numel() ** 0.5) / d.norm().clamp_min(1e-30)
        for d, own in zip(directions, problem.layout.split(problem.theta), strict=True)
    ]
    return torch.cat([piece.reshape(-1) for piece in pieces])


def _padding_rows(model: nn.Module) -> dict[str, int]:
    """The row of each embedding that torch keeps fixed: its gradient is zero by definition."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(m.weight)]: m.padding_idx
        for m in model.modules()
        if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) and m.padding_idx is not None
        if id(m.weight) in names
    }


def rounding_noise(problem: Problem, v: Tensor) -> float:
    """The error of Hv by the rounding of a model in half precision, relative to its size.

    Parameters moved within their own rounding, to both sides, make the network round anew
    everywhere: in (H₊v + H₋v)/2 - Hv the change of H itself cancels to first order, and 2/3 of the
    square is that of one rounding error. Costs three matvecs.
    """
    assert problem.point.half is not None
    own = probes.key(0, "rounding of a check")
    z = probes.gaussian(problem.n, own, dtype=problem.dtype, device=problem.device)
    nudge = rounding.eps(problem.point.half) / 2 * z * problem.theta
    behind, here, ahead = (
        ReverseOverReverse(problem.at(problem.theta + sign * nudge)).products(v[:, None])[:, 0]
        for sign in (-1, 0, 1)
    )
    size, change = float(here.norm()), (ahead + behind) / 2 - here
    return (2 / 3) ** 0.5 * float(change.norm()) / size if size > 0 else 0.0


def beside(sample: Sample) -> Sample:
    """The sample at parameters close by: a kink is left behind, a fault comes along."""
    problem = sample.problem
    nudge = sample.steps_first[0] * direction(problem, seed=9)
    return replace(sample, problem=problem.at(problem.theta + nudge))


def first_error(sample: Sample, gradient: Tensor | None = None) -> float:
    """The smallest relative error of the loss's differences along three random directions."""
    gradient = sample.problem.gradient() if gradient is None else gradient
    directions = (direction(sample.problem, seed) for seed in range(2, 5))
    return _smallest((_loss_error(sample, d, gradient) for d in directions), sample.first)


def second_error(sample: Sample) -> tuple[float, Tensor]:
    """The smallest relative error of the gradient's differences along two random directions.

    Costs up to two matvecs; the difference comes along.
    """
    best = float("inf"), torch.zeros(0)
    for seed in (5, 6):
        d = direction(sample.problem, seed)
        product = ReverseOverReverse(sample.problem).products(d[:, None])[:, 0]
        best = min(best, _best_difference(sample, d, product), key=lambda pair: pair[0])
        if best[0] <= sample.second:
            break
    return best


def _smallest(errors: Iterable[float], enough: float) -> float:
    """The smallest of the errors, or the first that is small enough."""
    best = float("inf")
    for error in errors:
        best = min(best, error)
        if best <= enough:
            break
    return best


def _loss_error(sample: Sample, d: Tensor, gradient: Tensor) -> float:
    """The smallest error over the steps, relative to how much the loss moves; 0 in rounding.

    At a minimum the slope vanishes and the loss moves by its curvature alone, so the error is
    compared with the mean of |L(θ ± h d) - L(θ)| / h and not with the slope.
    """
    theta, slope, center = sample.problem.theta, float(gradient @ d), sample.problem.loss()
    dtype = _loss_dtype(sample.problem)

    def error_at(h: float) -> float:
        ahead, behind = (sample.problem.at(theta + s * h * d).loss() for s in (1, -1))
        measured = (ahead - behind) / (2 * h)
        moved = (abs(ahead - center) + abs(behind - center)) / (2 * h)
        noise = rounding.loss_noise(dtype, max(abs(ahead), abs(behind), abs(center))) / h
        scale = max(moved, abs(slope))
        return max(0.0, abs(measured - slope) - noise) / scale if scale > 0 else 0.0

    return _smallest(map(error_at, sample.steps_first), sample.first)


def worst_tensor(sample: Sample) -> tuple[str, float]:
    """The parameter tensor along which loss and gradient disagree most."""
    d, gradient = direction(sample.problem, seed=2), sample.problem.gradient()
    worst = ("the parameters", 0.0)
    for name, place in sample.problem.layout.slices().items():
        alone = torch.zeros_like(d)
        alone[place] = d[place]
        error = _loss_error(sample, alone, gradient)
        worst = max(worst, (name, error), key=lambda pair: pair[1])
    return worst


def _best_difference(sample: Sample, d: Tensor, product: Tensor) -> tuple[float, Tensor]:
    """The smallest relative error of gradient differences over the steps, and that difference."""
    theta, size = sample.problem.theta, float(sample.problem.gradient().norm())
    noise = rounding.gradient_change_noise(_loss_dtype(sample.problem), size)
    best, difference = float("inf"), torch.zeros_like(d)
    for h in sample.steps_second:
        ahead, behind = (sample.problem.at(theta + s * h * d).gradient() for s in (1, -1))
        measured = (ahead - behind) / (2 * h)
        scale = max(float(measured.norm()), float(product.norm()))
        excess = max(0.0, float((measured - product).norm()) - noise / h)
        error = excess / scale if scale > 0 else 0.0
        if error < best:
            best, difference = error, measured - product
        if best <= sample.second:
            break
    return best, difference

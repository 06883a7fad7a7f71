"""Errors that come from the finite data: how much of a gradient is the luck of the sample."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hesscope import collectives
from hesscope.problem.data import num_examples, take
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem

PARTS = 32  # the data is looked at in at least this many parts, where it can be


def gradient_with_noise(problem: Problem) -> tuple[Tensor, float]:
    """The mean gradient (n,) and the standard error of it that the finite data leaves.

    The data is cut into parts b of weight w_b; with their gradients g_b and the mean g,
    noise² = B/(B-1) Σ_b w_b² ‖g_b - g‖² estimates E‖g - E g‖² over draws of the data set, which
    is tr Σ / N for independent examples with gradient covariance Σ. The noise is NaN when the data
    is one part that cannot be cut. Costs one gradient.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0], [3.0]]).double()
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> problem = hs.Problem(model, lambda out, y: (out - y).mean(), (x, x))
    >>> gradient_with_noise(problem)  # parts 1 and 3: mean 2, standard error √(2/4 · 2) = 1
    (tensor([2.], dtype=torch.float64), 1.0)
    """
    parts = problem.with_batches(_cut(problem))
    total = torch.zeros(problem.n, dtype=problem.dtype, device=problem.device)
    weighted = torch.zeros_like(total)
    squares, weights = 0.0, 0.0
    with parts.evaluating() as leaves:
        for batch in parts.batches:
            w = batch.count / parts.count
            g = flatten(parts.batch_gradient(batch, leaves))
            total += w * g
            weighted += w**2 * g
            squares += w**2 * float(g.double().square().sum())
            weights += w**2
    gradient = collectives.sum_over_processes(total)
    weighted = collectives.sum_over_processes(weighted)
    squares = collectives.sum_of_number(squares)
    weights = collectives.sum_of_number(weights)
    num_parts = collectives.sum_of_number(float(len(parts.batches)))
    if num_parts < 2:
        return gradient, math.nan
    spread = squares - 2 * float(gradient.double() @ weighted.double())
    spread += weights * float(gradient.double().square().sum())
    return gradient, math.sqrt(max(0.0, spread) * num_parts / (num_parts - 1))


def _cut(problem: Problem) -> list[Any]:
    """The contents of all batches, each cut further where there are fewer than PARTS."""
    contents = [batch.content for batch in problem.batches]
    pieces = -(-PARTS // len(contents))
    return [part for content in contents for part in _cut_one(problem, content, pieces)]


def _cut_one(problem: Problem, content: Any, pieces: int) -> list[Any]:
    try:
        size = num_examples(content)
    except ValueError:  # the examples of this batch cannot be told apart: it stays whole
        return [content]
    step = max(1, -(-size // pieces))
    parts = [take(content, slice(i, i + step)) for i in range(0, size, step)]
    return [part for part in parts if problem.batches.count_of(part) > 0]

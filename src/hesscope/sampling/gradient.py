"""The mean gradient, and how far the luck of the data may have carried it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesscope.problem.problem import Problem
from hesscope.sampling.parts import parts_of
from hesscope.system import collectives


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
    total = torch.zeros(problem.n, dtype=problem.dtype, device=problem.device)
    weighted = torch.zeros_like(total)
    squares, weights, num_parts = 0.0, 0.0, 0.0
    with problem.evaluation() as e:
        for part in parts_of(problem, e):
            w = part.count / e.num_items
            g = e.gradient(part)
            total += w * g
            weighted += w**2 * g
            squares += w**2 * float(g.double().square().sum())
            weights += w**2
            num_parts += 1
    gradient = collectives.sum_over_processes(total)
    weighted = collectives.sum_over_processes(weighted)
    squares = collectives.sum_of_number(squares)
    weights = collectives.sum_of_number(weights)
    num_parts = collectives.sum_of_number(num_parts)
    if num_parts < 2:
        return gradient, math.nan
    spread = squares - 2 * float(gradient.double() @ weighted.double())
    spread += weights * float(gradient.double().square().sum())
    return gradient, math.sqrt(max(0.0, spread) * num_parts / (num_parts - 1))

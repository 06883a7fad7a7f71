"""The loss as something to go down: where it is not finite, no way down leads."""

from __future__ import annotations

import math

from torch import Tensor

from hesscope.problem.problem import Problem


def height(problem: Problem, theta: Tensor) -> float:
    """The mean loss at theta (n,), infinite where it is inf, -inf or NaN; one loss.

    >>> import torch, hesscope as hs
    >>> root = hs.Problem.from_function(lambda t: t.sqrt().sum(), torch.ones(1))
    >>> height(root, torch.tensor([4.0])), height(root, torch.tensor([-1.0]))
    (2.0, inf)
    """
    loss = problem.loss_at(theta)
    return loss if math.isfinite(loss) else math.inf

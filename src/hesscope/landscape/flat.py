"""Along a direction without curvature: does the loss fall all the same?"""

from __future__ import annotations

from itertools import takewhile

from torch import Tensor

from hesscope import rounding
from hesscope.landscape.height import height
from hesscope.problem.problem import Problem

LENGTHS = tuple(10.0**-k for k in range(5))  # relative to ‖θ‖, or to 1 where that is zero
COST = 2 * len(LENGTHS)  # losses


def fall_along(problem: Problem, v: Tensor, loss: float, slope: float) -> float:
    """How far the loss falls along v or -v, at every length that can be told from rounding.

    At a critical point without negative curvature second derivatives do not tell a minimum from a
    degenerate saddle such as t³ or -t⁴. Here the loss itself is asked, at lengths from ‖θ‖ down to
    1e-4 of it: it falls near θ when all the lengths where it differs from L(θ) by more than
    rounding and slope·t show a fall, from the shortest on, and there are at least two. Falling only
    further out, behind a rise, says nothing about θ. The answer is the largest fall of that run, 0
    where there is none. A proof of descent, up to rounding, but its absence proves nothing.

    Costs 10 losses over all data.

    Args:
        problem: at the critical point.
        v: (n,) direction of unit length.
        loss: L(θ).
        slope: a bound of |g·v|, what is left of the gradient.

    >>> import torch, hesscope as hs
    >>> v = torch.tensor([1.0, 0.0]).double()
    >>> for f in (lambda t: t[0] ** 3 + t[1] ** 2, lambda t: t[0] ** 4 - t[0] ** 5 + t[1] ** 2):
    ...     fall_along(hs.Problem.from_function(f, torch.zeros(2).double()), v, 0.0, 0.0)
    1.0
    0.0
    """
    theta = problem.theta
    scale = float(theta.norm()) or 1.0
    noise = rounding.loss_noise(problem.dtype, loss)
    falls = [0.0]
    for sign in (1.0, -1.0):
        changes = []
        for length in reversed(LENGTHS):
            t = sign * length * scale
            change = height(problem, theta + t * v) - loss
            if abs(change) > noise + 2 * slope * abs(t):
                changes.append(change)
        run = list(takewhile(lambda change: change < 0, changes))
        if len(run) >= 2:
            falls.append(-min(run))
    return max(falls)

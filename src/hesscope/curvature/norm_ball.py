"""The sharpness of optimisers that step along a norm ball, such as Muon."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope.curvature.hessian import Hessian
from hesscope.problem.problem import Problem
from hesscope.steps.held import held
from hesscope.steps.kinds import ball_of

SETTLED = 1e-2  # relative rise of the sharpness at which the search ends


@dataclass(frozen=True)
class BallSharpness:
    """max d·Hd over the steps d of a norm ball, and g·d for the step that the gradient calls for.

    To second order a step -lr d(g) lowers the loss by lr g·d(g) - lr²/2 d·Hd at least, so it
    descends while lr < 2 g·d(g)/sharpness. Steps of fixed length do so until the gradient has
    fallen to about lr·sharpness/2 in the dual norm, and then hover. What counts is the length of
    the step that is made: Muon's iteration leaves singular values between 0.7 and 1.2.

    In one dimension the mean of g·d over both phases of the oscillation is exactly there. A
    two-layer tanh network on 200 digits, full batch, momentum 0 and 0.95, lr 0.02 and 0.05, looked
    at 43 times at both phases, hovered with lr at 0.95 to 1.12 of its limit (the harmonic mean;
    1.06 to 1.31 where the real length of a step is not counted), and the mean of d·Hd/2 along its
    own steps was 1.00 to 1.04 of that of -g·d, as it has to be where the loss rests.
    """

    sharpness: float  # a lower bound: the largest that was found
    dual_norm: float  # g·d(g)
    num_matvecs: int
    length: float = 1.0  # of the step that is made, in members of the ball

    @property
    def lr_limit(self) -> float:
        """2 g·d(g)/(length·sharpness); infinite without positive curvature."""
        bend = self.length * self.sharpness
        return 2 * self.dual_norm / bend if bend > 0 else float("inf")


def ball_sharpness(
    problem: Problem,
    optimizer: Optimizer,
    gradient: Tensor,
    step: Tensor | None = None,
    *,
    max_matvecs: int = 20,
) -> BallSharpness:
    """By d ← the member of the ball with the largest product with H d, from d(g).

    Each step raises d·Hd where H is positive semidefinite. Costs a product a step.

    Args:
        problem: whose Hessian it is.
        optimizer: one whose steps fill a ball.
        gradient: (n,) whose member is the start.
        step: (n,) that is really made. Newton and Schulz leave singular values between 0.7 and 1.2,
            so that it is longer or shorter than a member of the ball: the limit counts that.
        max_matvecs: at most.

    Raises:
        ValueError: if the optimiser's steps are no norm ball, or it does not hold all parameters.

    >>> import torch, hesscope as hs
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> problem = hs.Problem(model, torch.nn.MSELoss(), (torch.eye(2).double(), torch.zeros(2, 1)))
    >>> muon = torch.optim.Muon(model.parameters(), lr=0.1)
    >>> round(ball_sharpness(problem, muon, problem.gradient()).sharpness, 9)  # H = 1, ‖d‖ = 1
    1.0
    """
    ball = ball_of(optimizer)
    if ball is None:
        msg = f"the steps of {type(optimizer).__name__} are no norm ball that is known."
        raise ValueError(msg)
    owners = held(problem, optimizer)
    largest = max(float(p.group["lr"]) for p in owners) or 1.0

    def member(v: Tensor) -> Tensor:
        """That of the ball with the largest product with v, with each group's share of the lr."""
        pieces = problem.layout.split(v)
        steps = [
            float(p.group["lr"]) / largest * ball(p.group, piece)
            for p, piece in zip(owners, pieces, strict=True)
        ]
        return torch.cat([one.reshape(-1) for one in steps])

    H, d, best, cost = Hessian(problem), member(gradient), 0.0, 0
    dual_norm = float(gradient.double() @ d.double())
    while cost < max_matvecs:
        product = H @ d
        cost += 1
        value = float(d.double() @ product.double())
        if value <= (1 + SETTLED) * best:
            break
        best, d = value, member(product)
    length = 1.0
    if step is not None and step.any():
        m = member(step).double()
        length = float(step.double() @ m) / (largest * float(m @ m))
    return BallSharpness(best, dual_norm, cost, length)

"""Saddle-free Newton (Dauphin, Pascanu, Gulcehre, Cho, Ganguli and Bengio 2014)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from hesscope import rounding
from hesscope.curvature.hessian import Hessian
from hesscope.curvature.shared import SharedOperator
from hesscope.krylov.subspace import Subspace
from hesscope.operator import SymmetricOperator, norm
from hesscope.optim.newton import Model, Newton
from hesscope.problem.problem import Problem


class SaddleFreeNewton(Newton):
    """Newton steps with |H|, which saddles repel (Dauphin et al. 2014, algorithm 1).

        d = -Q (|T| + damping I)⁻¹ Qᵀ g,  T = QᵀHQ,  |T| = S |θ| Sᵀ for T = S θ Sᵀ
        θ ← θ + lr t d

    Q spans the Krylov space of H and g, of `max_matvecs` dimensions: with n or more of them d is
    -(|H| + damping I)⁻¹ g itself. Where the Hessian is positive definite this is Newton's step;
    along directions of negative curvature it goes down, as far as in a bowl of as much curvature.
    Damping, reduction ratio and shortening are those of `NewtonCG`, with H in the model (the paper
    tries several dampings on the loss instead). Where the loss curves downwards along d the model
    has no minimum, and t is doubled as long as the loss goes on falling.

    g is what `.grad` holds; H and the losses are those of the problem's data, or of the `batch`
    given to `step`. A step costs a gradient, `max_matvecs` products of about 2 gradients and 2
    losses or some more, and 2 `max_matvecs` vectors; `param_groups[0]` counts: num_steps,
    num_matvecs, num_losses, num_rejected (θ stayed).

    The Krylov space knows of a direction only what g has of it. *Exactly* on the stable manifold of
    a saddle g has nothing of the way out, and this ends in the saddle as gradient descent does;
    `PerturbedSGD` does not. With g small against its noise, as on small batches, so is that.

    Args:
        problem: model, loss, and the data of the curvature. Its θ is the only parameter group.
        lr: scales the step that was accepted; schedulers may change it.
        damping: at the start, in units of the curvature; kept in `param_groups[0]["damping"]`.
        max_matvecs: dimensions of the Krylov space.

    Gradients and curvature have to be of one function: see `NewtonCG`.

    Raises:
        ValueError: if an argument is out of range, or the problem cannot be moved.

    >>> import torch, hesscope as hs
    >>> theta = torch.nn.Parameter(torch.tensor([1.0, 1e-3]))
    >>> problem = hs.Problem.from_function(lambda t: t[0] ** 2 + (t[1] ** 2 - 1) ** 2 / 4, theta)
    >>> newton = hs.optim.SaddleFreeNewton(problem, damping=1e-3)
    >>> for _ in range(8):
    ...     problem.model.theta.grad = problem.gradient()
    ...     newton.step()
    >>> problem.theta.abs().round(decimals=3)  # not the saddle, (0, 0)
    tensor([0., 1.])
    """

    def __init__(
        self, problem: Problem, lr: float = 1.0, *, damping: float = 1.0, max_matvecs: int = 20
    ) -> None:
        super().__init__(problem, lr, damping, max_matvecs)

    def _operator(self, problem: Problem) -> SharedOperator:
        """H."""
        return Hessian(problem)

    def _curvatures(self, theta: np.ndarray, damping: float) -> np.ndarray:  # noqa: ARG002
        """|θ|."""
        return np.abs(theta)

    def _model(self, A: SymmetricOperator, b: Tensor, damping: float) -> Model:  # noqa: ARG002
        """The Krylov space of H and the gradient."""
        space, v = Subspace(A), b
        while len(space) < min(self.max_matvecs, A.n) and space.add(v):
            v = space.Q.complement(space.AQ[len(space) - 1])
            if norm(A, v) <= rounding.breakdown(A.precision, space.scale):
                break
        first = np.zeros(len(space))
        first[:1] = norm(A, b)
        return Model.within(space, first, space.num_matvecs)

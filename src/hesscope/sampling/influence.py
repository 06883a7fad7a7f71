"""Influence functions: what leaving out a training example would do to a test loss."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from hesscope import probes
from hesscope.autodiff.jacobian import single_examples
from hesscope.curvature.gauss_newton import GaussNewton
from hesscope.curvature.hessian import Hessian
from hesscope.krylov.eigsh import eigsh
from hesscope.krylov.solve import solve
from hesscope.operator import SymmetricOperator
from hesscope.problem.problem import Problem
from hesscope.results.influence import Influence, rank_correlation
from hesscope.sampling.slopes import slopes_along
from hesscope.system import collectives
from hesscope.system.contexts import public

SHARE = 1e-3  # of the largest |λ| that a damping is by default
ABOVE = 1.5  # times the proven negative end, so that A + damping I is well away from singular
FACTOR = 3.0  # between the dampings that are compared


@public
def influence(
    problem: Problem,
    test: Problem | Any,
    *,
    damping: float | None = None,
    matrix: Literal["Gauss-Newton", "Hessian"] = "Gauss-Newton",
    each: bool = False,
    tol: float = 1e-3,
    seed: int | None = None,
) -> Influence:
    """The change of a test loss when each training example is left out, to first order.

    I_n = w_n g_testᵀ (A + damping I)⁻¹ g_n, with w_n the weight of example n in the mean loss (Koh
    and Liang 2017, eq. 2, for leaving out instead of adding). Exact to first order in 1/N for a
    convex loss at its minimum and A the Hessian; for networks a guide, whose order may depend on
    the damping: it is compared with a third and three times of it (`stability`).

    Args:
        problem: the model and its training data, standing where training ended.
        test: a problem with the test data, or the data itself.
        damping: added to the diagonal. The weight decay λ of a training loss + λ/2 |θ|²; by
            default 1e-3 of the largest |λ|, and 1.5 times what makes the Hessian definite.
        matrix: "Gauss-Newton", which is definite, or "Hessian".
        each: one column for each test example, instead of one for their mean loss.
        tol: relative residual of the systems.
        seed: of the random starts that find the size of A; a fresh one by default.

    Returns:
        Scores (N, 1) or (N, T), positive where the example helps. Costs about 20 matvecs for the
        damping, three solutions for each test loss, and two gradients.

    Raises:
        ValueError: if examples cannot be told apart, processes share the data, or as for
            `GaussNewton` and `solve`.
        RuntimeError: if the damping that is given leaves the Hessian indefinite.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0], [1.0], [2.0]]).double()
    >>> y = torch.tensor([[1.0], [1.3], [2.0]]).double()
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> p = hs.Problem(model, torch.nn.MSELoss(), (x, y))
    >>> p.write((x * y).sum().reshape(1) / (x * x).sum())  # least squares
    >>> i = hs.influence(p, (x[:1], y[:1]), damping=1e-9)
    >>> i.helpful(num=1), i.harmful(num=1)
    (tensor([2]), tensor([1]))
    """
    collectives.refuse_several("influence")
    held_out = test if isinstance(test, Problem) else problem.with_batches(_batched(test))
    targets = _each(held_out) if each else held_out.gradient()[:, None]
    A = GaussNewton(problem) if matrix == "Gauss-Newton" else Hessian(problem)
    lowest, spent, why = A.lower_bound, 0, "as given"
    if damping is None or lowest < 0:
        seed = A.drawn_seed(seed)
        found, lowest, spent, why_found = _damping(A, seed)
        damping, why = (found, why_found) if damping is None else (damping, why)
    least = -1.01 * lowest  # below, the matrix would be indefinite
    dampings = [damping, max(damping / FACTOR, least), damping * FACTOR]
    solutions = [solve(A, targets, at, tol=tol, lambda_min=lowest, method="cg") for at in dampings]
    along = torch.cat([s.x.reshape(problem.n, -1) for s in solutions], 1)
    scores, *others = slopes_along(problem, along).split(targets.shape[1], 1)
    pairs = [(a, b) for other in others for a, b in zip(scores.T, other.T, strict=True)]
    return Influence(
        scores=scores,
        damping=damping,
        why_damping=why,
        matrix=matrix,
        residuals=solutions[0].relative,
        stability=min(rank_correlation(a, b) for a, b in pairs),
        slope=float(problem.gradient().norm()),
        num_matvecs=spent + sum(s.num_matvecs for s in solutions),
        notes=solutions[0].notes,
    )


def _batched(data: Any) -> Any:
    """Data of a `Problem`: a pair of tensors is one batch of a list."""
    pair = isinstance(data, tuple) and all(isinstance(part, Tensor) for part in data)
    return [data] if pair else data


def _each(problem: Problem) -> Tensor:
    """The gradient of the loss of every test example, (n, T).

    Raises:
        ValueError: if the examples of a batch cannot be told apart, or are one item together.
    """
    with single_examples(problem).evaluation() as e:
        return torch.stack([e.gradient(one) for one in e.batches], 1)


def _damping(A: SymmetricOperator, seed: int) -> tuple[float, float, int, str]:
    """A damping, a proven lower bound of A, the products spent, and why, in words."""
    top = eigsh(A, 1, "LM", tol=0.1, verify=False, seed=probes.key(seed, "largest for a damping"))
    size = float(top.eigenvalues[0].abs())
    damping, why = SHARE * size, f"{SHARE:g} of the largest |λ|"
    lowest, spent = A.lower_bound, top.num_matvecs
    if lowest < 0:
        bottom = eigsh(A, 1, "SA", tol=0.1, seed=probes.key(seed, "lowest for a damping"))
        lowest, spent = bottom.certificate.lower, spent + bottom.num_matvecs
        if -ABOVE * lowest > damping:
            damping, why = -ABOVE * lowest, f"{ABOVE:g} times what makes the Hessian definite"
    return damping, lowest, spent, why

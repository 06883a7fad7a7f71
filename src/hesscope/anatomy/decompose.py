"""Splits curvature along given directions into Gauss-Newton and residual, per layer if asked."""

from __future__ import annotations

import torch
from torch import Tensor

from hesscope.curvature.gauss_newton import GaussNewton
from hesscope.curvature.hessian import Hessian
from hesscope.problem.layers import layer_slices
from hesscope.problem.problem import Problem
from hesscope.results.decomposition import Decomposition
from hesscope.results.spectrum import Eigenpairs
from hesscope.system.contexts import public


@public
def decompose(
    problem: Problem, vectors: Tensor | Eigenpairs, *, per_layer: bool = False
) -> Decomposition:
    """v'Hv = v'Gv + v'Rv, R = H - G, for each column v, normalised to unit length.

    G is the part of the curvature that comes from the loss at fixed first-order features, R the
    part from the second derivatives of the outputs. For an eigenvector the sum is its eigenvalue.
    v'Rv is taken from (H - G)v itself. Exact to rounding; costs k products of H and k of G.

    Args:
        problem: with outputs (not a closure).
        vectors: (n,), (n, k), or the result of `eigsh`.
        per_layer: also v_l'(Mv)_l for each module that owns parameters; the rows add up.

    Raises:
        ValueError: if the vectors do not have n rows, or one of them is zero.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> p = hs.Problem(torch.nn.Linear(1, 1, bias=False), torch.nn.MSELoss(), (x, x))
    >>> ledger = hs.decompose(p, torch.ones(1))  # a linear model has no residual
    >>> float(ledger.gauss_newton), float(ledger.residual)
    (10.0, 0.0)
    """
    V = _unit_columns(problem, vectors)
    G, H = GaussNewton(problem), Hessian(problem)
    GV, HV = G @ V, H @ V
    RV = HV - GV
    layers = tuple(problem.blocks()) if per_layer else ()
    return Decomposition(
        curvature=_diagonal(V, HV),
        gauss_newton=_diagonal(V, GV),
        residual=_diagonal(V, RV),
        num_matvecs=2 * V.shape[1],
        layers=layers,
        gauss_newton_by_layer=_by_layer(problem, V, GV) if per_layer else None,
        residual_by_layer=_by_layer(problem, V, RV) if per_layer else None,
    )


def _unit_columns(problem: Problem, vectors: Tensor | Eigenpairs) -> Tensor:
    V = vectors.eigenvectors if isinstance(vectors, Eigenpairs) else vectors
    V = V.reshape(len(V), -1).to(dtype=problem.dtype, device=problem.device)
    norms = V.norm(dim=0)
    if V.shape[0] != problem.n or not bool((norms > 0).all()):
        msg = (
            f"vectors of shape {tuple(V.shape)} do not fit n={problem.n} parameters, or one is "
            "zero; give (n,), (n, k) or the result of hs.eigsh(hs.Hessian(problem))."
        )
        raise ValueError(msg)
    return V / norms


def _diagonal(V: Tensor, W: Tensor) -> Tensor:
    return (V.double() * W.double()).sum(0).cpu()


def _by_layer(problem: Problem, V: Tensor, W: Tensor) -> Tensor:
    products = V.double() * W.double()
    rows = [
        torch.stack([products[place].sum(0) for place in places]).sum(0)
        for places in layer_slices(problem).values()
    ]
    return torch.stack(rows).cpu()

"""Which layers carry the curvature and how they interact: all blocks of H in one sweep."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesscope import probes, rounding
from hesscope.curvature.hessian import Hessian
from hesscope.krylov.eigsh import eigsh
from hesscope.problem.layers import layer_slices
from hesscope.problem.problem import Problem
from hesscope.results.layers import LayerMap
from hesscope.system import progress
from hesscope.system.contexts import public

EXACT_UP_TO = 4_000  # parameters: below, the whole Hessian is assembled (0.13 GB in float64)


@public
def layer_map(
    problem: Problem, *, num_probes: int = 16, exact: bool | None = None, seed: int = 0
) -> LayerMap:
    """λmax, trace and Frobenius norm of each layer's block H_ll, and ‖H_lm‖_F between layers.

    A layer is a module that owns parameters (`problem.blocks()`). Up to 4,000 parameters the
    Hessian is assembled once, n matvecs, and everything is exact. Above, Gaussian probes z that
    live on one layer give, for all m at once, ‖H_ml‖²_F = E‖(Hz)_m‖² and tr H_ll = E z·(Hz)_l,
    with standard errors over `num_probes` of them: num_layers x num_probes matvecs; λmax comes
    from `eigsh` on each block, whose products cost less than those of the whole model.

    Raises:
        ValueError: if num_probes is less than 2.

    >>> import torch, hesscope as hs
    >>> p = hs.Problem.from_function(lambda t: (t**2).sum(), torch.ones(3))
    >>> hs.layer_map(p).lambda_max
    tensor([2.], dtype=torch.float64)
    """
    if num_probes < 2:
        msg = f"num_probes={num_probes}: a standard error needs at least 2."
        raise ValueError(msg)
    if exact is None:
        exact = problem.n <= EXACT_UP_TO
    return _exact_map(problem) if exact else _probed_map(problem, num_probes, seed)


def _exact_map(problem: Problem) -> LayerMap:
    """All blocks of the dense Hessian."""
    H = Hessian(problem).to_dense().double()
    H = (H + H.T) / 2
    places = {name: _indices(slices) for name, slices in layer_slices(problem).items()}
    blocks = [[H[rows][:, columns] for columns in places.values()] for rows in places.values()]
    diagonal = [blocks[i][i] for i in range(len(blocks))]
    error = rounding.block_eigenvalue(problem.dtype, float(H.norm()))
    zeros = torch.zeros(len(diagonal), dtype=torch.float64)
    return LayerMap(
        layers=tuple(places),
        sizes=tuple(len(rows) for rows in places.values()),
        lambda_max=torch.stack([torch.linalg.eigvalsh(block)[-1] for block in diagonal]).cpu(),
        lambda_max_error=zeros + error,
        trace=torch.stack([block.trace() for block in diagonal]).cpu(),
        trace_error=zeros,
        interaction=torch.stack([torch.stack([b.norm() for b in row]) for row in blocks]).cpu(),
        interaction_error=torch.zeros(len(diagonal), len(diagonal), dtype=torch.float64),
        num_matvecs=problem.n,
        exact=True,
    )


def _probed_map(problem: Problem, num_probes: int, seed: int) -> LayerMap:
    H, blocks = Hessian(problem), problem.blocks()
    places = {name: _indices(slices) for name, slices in layer_slices(problem).items()}
    squares, traces = [], []
    for done, rows in enumerate(places.values()):
        progress.report("layer map: layers", done, len(places))
        Z = torch.zeros(problem.n, num_probes, dtype=problem.dtype, device=problem.device)
        for j in range(num_probes):
            own = probes.key(seed, "layer map", done * num_probes + j)
            Z[rows, j] = probes.gaussian(len(rows), own, dtype=Z.dtype, device=Z.device)
        HZ = (H @ Z).double()
        squares.append(torch.stack([HZ[part].square().sum(0) for part in places.values()]))
        traces.append((Z[rows].double() * HZ[rows]).sum(0))
    tops = [
        eigsh(Hessian(block), k=1, tol=1e-2, verify=False, seed=probes.key(seed, "layer", i))
        for i, block in enumerate(blocks.values())
    ]
    norms, norm_errors = _root_mean(torch.stack(squares, 1))
    norms, norm_errors = _symmetric(norms, norm_errors)
    samples = torch.stack(traces)
    return LayerMap(
        layers=tuple(places),
        sizes=tuple(len(rows) for rows in places.values()),
        lambda_max=torch.cat([top.eigenvalues for top in tops]).cpu(),
        lambda_max_error=torch.cat([top.residuals for top in tops]).cpu(),
        trace=samples.mean(1).cpu(),
        trace_error=(samples.std(1) / math.sqrt(num_probes)).cpu(),
        interaction=norms.cpu(),
        interaction_error=norm_errors.cpu(),
        num_matvecs=len(places) * num_probes + sum(top.num_matvecs for top in tops),
        exact=False,
    )


def _root_mean(squares: Tensor) -> tuple[Tensor, Tensor]:
    """√mean over probes, and its standard error by the delta method, σ/(2 √mean)."""
    mean = squares.mean(2)
    stderr = squares.std(2) / math.sqrt(squares.shape[2])
    root = mean.sqrt()
    return root, stderr / (2 * root).clamp_min(rounding.POSITIVE)


def _symmetric(norms: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """‖H_lm‖ = ‖H_ml‖: the two independent estimates are averaged."""
    together = (errors.square() + errors.T.square()).sqrt() / 2
    diagonal = torch.eye(len(norms), dtype=torch.bool, device=norms.device)
    return (norms + norms.T) / 2, torch.where(diagonal, errors, together)


def _indices(slices: list[slice]) -> Tensor:
    return torch.cat([torch.arange(place.start, place.stop) for place in slices])

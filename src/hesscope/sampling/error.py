"""Errors that come from the finite data: how much of a number is the luck of the sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.curvature.hessian import Hessian
from hesscope.problem.problem import Problem
from hesscope.results.sampling import SamplingError
from hesscope.results.spectrum import Eigenpairs
from hesscope.sampling.parts import (
    Unit,
    num_units,
    parts_of,
    products_of,
    random_sign,
    unit_in,
)
from hesscope.sampling.shares import curvature_shares
from hesscope.system import collectives, progress
from hesscope.system.contexts import public

DEPTH = 3  # block Krylov steps for the bias of an eigenvalue
NEIGHBOURS_ALIKE = 4.0  # standard deviations of the serial correlation that call for a note


@public
def sampling_error(
    problem: Problem, pairs: Eigenpairs, *, shares: bool = False, depth: int = DEPTH, seed: int = 0
) -> SamplingError:
    """How far eigenvalues of the Hessian of this data lie from those of the population.

    The data is cut into B parts b of weight w_b, at least 32 where possible, whose Hessians H_b
    average to H. Over draws of the data set, λ_i has to first order the standard error

        SE_i² = B/(B-1) Σ_b w_b² (v_i'H_b v_i - λ_i)²,

    with v_i held fixed, and to second order (Kato 1966, II.2) the bias

        E λ_i - λ_i(population) ≈ Σ_{j≠i} Var(v_j'H v_i) / (λ_i - λ_j),

    upwards for the largest eigenvalue and downwards for the smallest (Jensen). The sum over the
    given eigenvectors is taken as it stands, each term as the repulsion of two levels, which is
    the same for Var ≪ gap² and at most half the gap. What H_b v_i has outside their span meets
    the resolvent of H there in `depth` steps of block Krylov from one random combination of the
    parts: unbiased in its size, a lower estimate of 1/(λ_i - λ_j) where λ_i lies above or below all
    that is not given. So ask `eigsh` for one or two pairs more than are wanted: an unseen close
    neighbour of the last one is missed. `mixing` is the same sum over squared gaps, the expected
    sin² of the angle between v_i and the population's eigenvector; where it is not small
    (`reliable` is False) eigenvalues mix within their errors, and first-order theory fails.

    Args:
        problem: the problem whose Hessian `pairs` belongs to, its examples independent draws in an
            order without a meaning.
        pairs: the result of `hs.eigsh(hs.Hessian(problem), k)`.
        shares: also split each eigenvalue over the examples and, for integer labels, classes.
        depth: block Krylov steps for the bias.
        seed: of the random combination.

    Costs k products and one gradient on the parts, depth·k products for the bias, and with `shares`
    about 4k more (N k products of single examples for closures, and for models without
    third derivatives).

    Raises:
        ValueError: if `pairs` are not eigenpairs of this problem's Hessian, if the parts do not
            average to it, if the data is one part that cannot be cut, or if depth is below 1.
        RuntimeError: if the model has no trustworthy second derivative.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0], [3.0]]).double()
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> problem = hs.Problem(model, torch.nn.MSELoss(), (x, x))
    >>> error = hs.sampling_error(problem, hs.eigsh(hs.Hessian(problem), k=1))
    >>> float(error.eigenvalues), float(error.standard_errors)  # of 2 and 18: √(2 · 2/4 · 8²)
    (10.0, 8.0)
    """
    _check_arguments(problem, pairs, depth)
    values = pairs.eigenvalues.to(problem.device)
    V = pairs.eigenvectors.to(problem.device, problem.dtype)
    m = _measure(problem, V, values, seed)
    _check_mean(m.mean.diagonal(), pairs)
    biases, mixing = _second_order(Hessian(problem), V, values, m, depth)
    return SamplingError(
        eigenvalues=pairs.eigenvalues.cpu(),
        standard_errors=m.variances.diagonal().sqrt().cpu(),
        biases=biases.cpu(),
        mixing=mixing.cpu(),
        num_examples=m.num_examples,
        num_parts=m.num_parts,
        num_matvecs=(1 + depth) * len(pairs),
        shares=curvature_shares(problem, V) if shares else None,
        notes=_notes(m),
        unit=m.unit,
    )


@dataclass(frozen=True)
class _Moments:
    """First and second moments over the parts of D_b = H_b V - V Λ, whose mean is near zero."""

    mean: Tensor  # (k, k) V'D
    variances: Tensor  # (k, k) of V'D over draws of the data set
    rest: Tensor  # (k,) variances of the columns of D outside the span of V, summed
    combination: Tensor  # (n, k) random combination of those columns, with that covariance
    num_parts: int
    num_examples: float
    unit: Unit
    serial: float  # correlation of v'H_b v for the first v between neighbouring parts


def _measure(problem: Problem, V: Tensor, values: Tensor, seed: int) -> _Moments:
    k = V.shape[1]
    first, cross, second = torch.zeros(3, k, k, dtype=torch.float64, device=V.device).unbind()
    rest, combination = torch.zeros_like(first[0]), torch.zeros_like(V)
    weights, num_parts = 0.0, 0.0
    along: list[float] = []
    with problem.evaluation() as e:
        unit = unit_in(problem, e)
        for part in parts_of(problem, e):
            w = part.count / e.num_items
            D = products_of(e, part, V) - V * values.to(V.dtype)
            C = V.T @ D
            outside = D - V @ C
            combination += random_sign(part, seed) * w * outside
            rest += w**2 * outside.double().square().sum(0)
            C = C.double()
            first, cross, second = first + w * C, cross + w**2 * C, second + w**2 * C**2
            weights, num_parts = weights + w**2, num_parts + 1
            along.append(float(C[0, 0]))
            progress.report("data error: parts", int(num_parts))
    mean, cross, second, rest = map(collectives.sum_over_processes, (first, cross, second, rest))
    num_parts = _enough(collectives.sum_of_number(num_parts))
    weights = collectives.sum_of_number(weights)
    bessel = num_parts / (num_parts - 1)
    return _Moments(
        mean=mean,
        variances=bessel * (second - 2 * mean * cross + weights * mean**2).clamp_min(0),
        rest=bessel * rest,
        combination=collectives.sum_over_processes(combination),
        num_parts=int(num_parts),
        num_examples=num_units(problem, unit),
        unit=unit,
        serial=_serial_correlation(along),
    )


def _second_order(
    H: Hessian, V: Tensor, values: Tensor, m: _Moments, depth: int
) -> tuple[Tensor, Tensor]:
    """Biases and mixing, (k,) each."""
    gaps = values[None, :] - values[:, None]  # λ_i - λ_j in row j, column i
    off = ~torch.eye(len(values), dtype=torch.bool, device=values.device) & (m.variances > 0)
    ratio = torch.where(off, m.variances / gaps**2, 0.0)
    repulsion = gaps / 2 * (1 - (1 - 4 * ratio.clamp_max(0.25)).sqrt())
    inverse, squared = _inverse_gaps(H, V, values, m.combination, depth)
    return repulsion.sum(0) + m.rest * inverse, ratio.sum(0) + m.rest * squared


def _inverse_gaps(
    H: Hessian, V: Tensor, values: Tensor, U: Tensor, depth: int
) -> tuple[Tensor, Tensor]:
    """u_i'(λ_i - H)⁻¹u_i / u_i'u_i and the same with the square, on a Krylov space orthogonal to V.

    A Galerkin solution: with Q spanning U, HU, ... and Q'HQ = S Θ S', means over θ of 1/(λ_i - θ)
    with the weights that S'Q' u_i gives them.
    """
    Q = HQ = V[:, :0]
    block = U
    for _ in range(depth):
        block = _orthonormal(block, torch.cat([V, Q], 1))
        if not block.shape[1]:
            break
        product = H @ block
        Q, HQ, block = torch.cat([Q, block], 1), torch.cat([HQ, product], 1), product
    if not Q.shape[1]:
        return torch.zeros_like(values), torch.zeros_like(values)
    T = (Q.T @ HQ).double()
    ritz, S = torch.linalg.eigh((T + T.T) / 2)
    weights = (S.T @ (Q.T @ U).double()).square()
    weights = weights / weights.sum(0).clamp_min(rounding.tiny())
    inverse = 1 / (values[None, :] - ritz[:, None])
    return (weights * inverse).sum(0), (weights * inverse**2).sum(0)


def _orthonormal(W: Tensor, Q: Tensor) -> Tensor:
    """An orthonormal basis of the columns of W outside the span of Q, to half the digits."""
    small = rounding.half_the_digits(W.dtype)
    norms = W.norm(dim=0)
    W = W[:, norms > small * norms.max()]
    W = W / W.norm(dim=0)
    W = W - Q @ (Q.T @ W)
    left, singular, _ = torch.linalg.svd(W, full_matrices=False)
    basis = left[:, singular > small]
    for _ in range(2):  # directions that nearly vanished carry the rounding of the rest
        basis = torch.linalg.qr(basis - Q @ (Q.T @ basis)).Q
    return basis


def _serial_correlation(values: list[float]) -> float:
    """Of neighbours, in standard deviations under exchangeability (von Neumann 1941)."""
    x = torch.tensor(values, dtype=torch.float64)
    x = x - x.mean()
    squares = float(x.square().sum())
    return math.sqrt(len(x)) * float((x[1:] * x[:-1]).sum()) / squares if squares > 0 else 0.0


def _notes(m: _Moments) -> tuple[str, ...]:
    if m.serial <= NEIGHBOURS_ALIKE:
        return ()
    return (
        "neighbouring parts of the data are alike, as if it were sorted (by label, by source): "
        "the standard errors are then too large. Shuffle the data once before it is batched.",
    )


def _enough(num_parts: float) -> float:
    """The number of parts, if a spread can be seen.

    Raises:
        ValueError: if there is only one.
    """
    if num_parts >= 2:
        return num_parts
    msg = (
        "the data is one part whose examples cannot be told apart, so its luck cannot be seen: "
        "its tensors have no common first dimension, or batches couple their examples (training "
        "mode, contrastive losses). Give two or more batches; 32 are good."
    )
    raise ValueError(msg)


def _check_arguments(problem: Problem, pairs: Eigenpairs, depth: int) -> None:
    """Refuses what cannot be eigenpairs of this problem, and no Krylov steps.

    Raises:
        ValueError: if the eigenvectors do not have n rows, or there are none, or depth is below 1.
    """
    if depth < 1:
        msg = f"depth={depth}: the bias needs one Krylov step or more; the default is 3."
        raise ValueError(msg)
    if pairs.eigenvectors.shape[0] != problem.n or len(pairs) == 0:
        msg = (
            f"eigenvectors of shape {tuple(pairs.eigenvectors.shape)} are none of the Hessian of "
            f"a problem with n={problem.n}; give hs.eigsh(hs.Hessian(problem), k)."
        )
        raise ValueError(msg)


def _check_mean(misfit: Tensor, pairs: Eigenpairs) -> None:
    """Refuses parts that do not average to the Hessian of the pairs, by v'Hv - λ.

    Raises:
        ValueError: if they differ by more than a residual and 1 %.
    """
    allowed = pairs.residuals + 0.01 * pairs.eigenvalues.abs().max()
    bad = torch.nonzero(misfit.cpu().abs() > allowed.cpu()).flatten().tolist()
    if not bad:
        return
    value = float(pairs.eigenvalues[bad[0]])
    msg = (
        f"eigenvalue {value:.6g} is {value + float(misfit[bad[0]]):.6g} on the mean over parts "
        "of the data. Either the pairs are of another operator, problem or point: give "
        "hs.eigsh(hs.Hessian(problem), k). Or the loss of a batch is no mean over what `count` "
        "counts (class weights, ignored labels): pass `count` to Problem. Or batches couple their "
        "examples (training mode): give 32 or more batches, which are not cut."
    )
    raise ValueError(msg)

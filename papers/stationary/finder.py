"""Critical points: zeros of the gradient by Levenberg and Marquardt's method, and their index.

½|∇L|² has the gradient H g, and H² is its Gauss-Newton matrix: d = -(H² + μ)⁻¹ H g, with μ raised
where the gradient does not fall. This goes to minima, saddles and maxima alike, and may end where
|∇L|² has a minimum above zero: g is then in the null space of H, and the point is not critical
(Frye, Simon, Wadia, Ligeralde, DeWeese and Bouchard 2021 call it gradient-flat).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from common.keeping import Arrays
from torch import Tensor

TOLERANCE = 1e-11  # gradient norm of a critical point; losses are of order one
FAR = 30.0  # times |θ| of the start, beyond which a point is one "at infinity"
LARGE = 10.0  # root mean square of θ, above which a unit is saturated and the point far out
ZERO, CLEAR = 1e-9, 1e-6  # |λ|/max|λ| of zeros, and of eigenvalues whose sign is certain
FLAT = 1e-3  # |Hg| / (|H| |g|) of a gradient-flat point
MARQUARDT = 1e-2  # first μ, of max λ²


@dataclass(frozen=True)
class Field:
    """A loss on many points at once, (num, n)."""

    losses: Callable[[Tensor], Tensor]
    gradients: Callable[[Tensor], Tensor]
    hessians: Callable[[Tensor], Tensor]
    move: Callable[[Tensor, Tensor], Tensor] = torch.add


@dataclass
class _Search:
    """What a batch of searches has reached."""

    at: Tensor
    norm: Tensor
    damping: Tensor
    open: Tensor


def search(field: Field, starts: Tensor, iterations: int) -> Tensor:
    """Where the search ends from each start, (num, n)."""
    g = field.gradients(starts)
    now = _Search(
        starts.clone(),
        g.norm(dim=1),
        torch.full((len(starts),), MARQUARDT, dtype=torch.float64),
        torch.arange(len(starts)),
    )
    values, vectors = torch.linalg.eigh(field.hessians(starts))
    slope = (vectors.mT @ g[:, :, None])[:, :, 0]
    for _ in range(iterations):
        going = now.norm[now.open] > TOLERANCE / 100
        now.open, values, vectors, slope = (a[going] for a in (now.open, values, vectors, slope))
        if not len(now.open):
            break
        values, vectors, slope = _step(field, now, (values, vectors, slope))
    return now.at


def _step(field: Field, now: _Search, known: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One step of every open search: taken where |g| falls; μ as Marquardt has it."""
    values, vectors, slope = known
    mu = (now.damping[now.open] * values.abs().amax(1).square())[:, None]
    d = -(vectors @ (values * slope / (values.square() + mu))[:, :, None])[:, :, 0]
    there = field.move(now.at[now.open], d)
    g = field.gradients(there)
    norm = g.norm(dim=1)
    better = norm < now.norm[now.open]
    rows = now.open[better]
    now.at[rows], now.norm[rows] = there[better], norm[better]
    factor = torch.where(better, 0.2, 4.0).double()
    now.damping[now.open] = (now.damping[now.open] * factor).clamp(1e-24, 1e12)
    if bool(better.any()):
        new_values, new_vectors = torch.linalg.eigh(field.hessians(there[better]))
        values, vectors, slope = values.clone(), vectors.clone(), slope.clone()
        values[better], vectors[better] = new_values, new_vectors
        slope[better] = (new_vectors.mT @ g[better][:, :, None])[:, :, 0]
    return values, vectors, slope


def descend(field: Field, starts: Tensor, iterations: int) -> Tensor:
    """Down to minima by saddle-free Newton steps -(|H| + μ)⁻¹ g that lower the loss, (num, n)."""
    at, losses = starts.clone(), field.losses(starts)
    damping = torch.full((len(starts),), 1.0, dtype=torch.float64)
    for _ in range(iterations):
        g, H = field.gradients(at), field.hessians(at)
        values, vectors = torch.linalg.eigh(H)
        size = values.abs() + (damping * values.abs().amax(1))[:, None]
        d = -(vectors @ ((vectors.mT @ g[:, :, None]) / size[:, :, None]))[:, :, 0]
        there = field.losses(at + d)
        lower = there < losses
        at[lower], losses[lower] = (at + d)[lower], there[lower]
        damping = (damping * torch.where(lower, 0.2, 4.0).double()).clamp(1e-12, 1e12)
    return at


def described(field: Field, starts: Tensor, points: Tensor) -> Arrays:
    """Gradient norm, eigenvalues and what they certify, of each point."""
    g, H = field.gradients(points), field.hessians(points)
    values, norm = torch.linalg.eigvalsh(H), g.norm(dim=1)
    size = values.abs().amax(1)
    flat = (H @ g[:, :, None])[:, :, 0].norm(dim=1) <= FLAT * size * norm
    near = points.norm(dim=1) <= FAR * starts.norm(dim=1)
    critical = (norm <= TOLERANCE) & near & (size > 1e-6)
    return {
        "theta": points,
        "start": starts,
        "norm": norm,
        "loss": field.losses(points),
        "eigenvalues": values,
        "critical": critical,
        "certain": critical & certain(values),
        "flat": ~critical & near & flat,
        "distance": (points - starts).norm(dim=1),
    }


def certain(values: Tensor) -> Tensor:
    """Whether each eigenvalue is zero or not beyond doubt, and so the index is: (num,).

    Rounding moves an eigenvalue by about 1e-15 of the largest; what the gradient has left moves the
    point by |g|/|λ|, at most 1e-11/1e-6. Zeros lie below ZERO, all others above CLEAR.
    """
    share = values.abs() / values.abs().amax(-1, keepdim=True)
    return ~((share > ZERO) & (share < CLEAR)).any(-1)


def index(values: Tensor) -> Tensor:
    """How many eigenvalues are negative, (num,)."""
    return (values < -CLEAR * values.abs().amax(-1, keepdim=True)).sum(-1)


def zeros(values: Tensor) -> Tensor:
    """How many eigenvalues are zero, (num,)."""
    return (values.abs() <= ZERO * values.abs().amax(-1, keepdim=True)).sum(-1)


def share(values: Tensor) -> Tensor:
    """Negative eigenvalues over those that are not zero, (num,)."""
    return index(values) / (values.shape[-1] - zeros(values)).clamp(min=1)


def distinct(losses: Tensor, values: Tensor) -> Tensor:
    """One row for each of the points that differ in loss, index or number of zeros.

    Permutations of units and changes of their sign change none of these.
    """
    seen: dict[tuple[float, ...], int] = {}
    rows = zip(losses.tolist(), index(values).tolist(), zeros(values).tolist(), strict=True)
    for i, (loss, negative, zero) in enumerate(rows):
        seen.setdefault((float(f"{loss + 1e-9:.6g}"), negative, zero), i)
    return torch.tensor(sorted(seen.values()), dtype=torch.long)

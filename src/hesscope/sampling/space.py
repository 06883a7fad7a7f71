"""The examples' curvatures on a few vectors, and what is known of those outside."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.krylov.eigsh import eigsh
from hesscope.probes import key
from hesscope.sampling.examples import ExampleCurvatures, Images
from hesscope.steps.moments import NoiseMoments
from hesscope.system import collectives

BLOCK = 4  # vectors of the start, and of each round
START = 24  # products for the start
PROBES = 16  # random vectors for what lies outside of those
KEPT = 1e-8  # of the largest: curvatures below count as none


@dataclass(frozen=True)
class Space:
    """Vectors that diagonalise the mean curvature, and the curvature of each example on them."""

    V: Tensor  # (n, k), orthonormal
    eigenvalues: Tensor  # (k,) float64, of V'HV
    images: list[Images]
    forms: Tensor  # (N, k, k) float64 of this process
    num_examples: float
    cost: float  # in products, so far

    @property
    def noise(self) -> Tensor:
        """V'N_iV, (N, k, k)."""
        return self.forms - collectives.sum_over_processes(self.forms.sum(0)) / self.num_examples


def first_space(operator: ExampleCurvatures, seed: int) -> Space:
    """The eigenvectors at the top.

    Raises:
        ValueError: if there is no curvature.
    """
    k = min(BLOCK, operator.n)
    top = eigsh(operator, k, verify=False, tol=1e-2, max_matvecs=max(START, k), seed=seed)
    if not float(top.eigenvalues[0]) > 0:
        msg = "the loss has no curvature here, so any learning rate is stable to second order."
        raise ValueError(msg)
    V = torch.linalg.qr(top.eigenvectors).Q
    return _space(operator, V, operator.images(V), top.num_matvecs + k / 2)


def _space(operator: ExampleCurvatures, V: Tensor, images: list[Images], cost: float) -> Space:
    """Rotated to the eigenvectors of V'HV, without those of no curvature."""
    forms, num = operator.curvatures(images), operator.num_examples
    mean = collectives.sum_over_processes(forms.sum(0)) / num
    mean = mean + (V.T @ (operator.shift[:, None] * V)).double()
    values, Q = torch.linalg.eigh((mean + mean.T) / 2)
    kept = values > KEPT * values[-1]
    values, Q = values[kept], Q[:, kept]
    turn = Q.to(V.dtype)
    images = [replace(one, Z=one.Z @ turn, W=one.W @ turn) for one in images]
    return Space(V @ turn, values, images, Q.T @ forms @ Q, num, cost)


def extended(operator: ExampleCurvatures, space: Space, fresh: Tensor, spent: float) -> Space:
    """With more vectors, which are orthogonal to those there."""
    if not fresh.shape[1]:
        return space
    images = [
        replace(old, Z=torch.cat([old.Z, new.Z], 2), W=torch.cat([old.W, new.W], 2))
        for old, new in zip(space.images, operator.images(fresh), strict=True)
    ]
    V = torch.cat([space.V, fresh], 1)
    return _space(operator, V, images, space.cost + spent)


def moments_inside(space: Space) -> NoiseMoments:
    """The moments of what happens within the vectors."""
    k = len(space.eigenvalues)
    noise = space.noise.reshape(-1, k * k)
    pairs = collectives.sum_over_processes(noise.T @ noise) / space.num_examples
    inside = pairs.view(k, k, k, k).permute(0, 2, 1, 3).reshape(k * k, k * k)
    return NoiseMoments(space.eigenvalues, inside, torch.zeros_like(space.eigenvalues.diag()))


def directions(
    operator: ExampleCurvatures, space: Space, S: Tensor, share: float, sharpness: float
) -> Tensor:
    """Where tr M (H M H + c E N M N) / tr M H M grows fastest outside of V, at M = V S V'.

    With Q the leading vectors of S, these are (c E H_i V S A_i + H V S ((1 - c) Λ - s/2)) Q.
    """
    weights, Q = torch.linalg.eigh((S + S.T) / 2)
    Q = (Q * weights.clamp_min(0).sqrt())[:, -BLOCK:]
    linear = S @ ((1 - share) * space.eigenvalues[:, None] * Q - sharpness / 2 * Q)
    mixing = share * (S @ space.forms @ Q) + linear
    found = operator.pulled_back(space.images, mixing)
    found += operator.shift[:, None] * (space.V @ linear.to(space.V.dtype))
    return _orthonormal(found, space.V)


def _orthonormal(block: Tensor, V: Tensor) -> Tensor:
    """An orthonormal basis of what a block has outside of V; without columns that are rounding."""
    before = block.norm(dim=0)
    for _ in range(2):
        block = _outside(block, V)
    block = block[:, block.norm(dim=0) > rounding.half_the_digits(V.dtype) * before]
    block = torch.linalg.qr(block).Q
    return torch.linalg.qr(_outside(block, V)).Q


def moments_with_outside(
    operator: ExampleCurvatures, space: Space, share: float, seed: int
) -> NoiseMoments:
    """The moments with those of what lies outside of the vectors, from random vectors z there.

    E_i V'N_i Π N_i V is the mean of outer products of V'N_i z, tr(Π N_i Π N_i) that of squares of
    z'N_i z' over pairs. What the mean curvature does between V and there counts as noise as well,
    since V need not be quite invariant.
    """
    V, num = space.V, space.num_examples
    probes = _outside(
        torch.stack([operator.probe(key(seed, "outside a space", i)) for i in range(PROBES)], 1), V
    )
    probes *= (operator.n - V.shape[1]) ** 0.5 / probes.norm(dim=0)
    forms, to_V = _forms(operator, operator.images(probes), space)
    mean, mean_to_V = (collectives.sum_over_processes(x.sum(0)) / num for x in (forms, to_V))
    across = _summed("ipa,ipb->ab", to_V - mean_to_V, num) / PROBES
    bent = _bent(operator, space)
    across += bent.T @ bent / share
    shifted = mean + (probes.T @ (operator.shift[:, None] * probes)).double()
    trace, square = float(shifted.diagonal().mean()), _mean_of_pairs(shifted.square())
    if not (trace > 0 and square > 0):
        return moments_inside(space)
    each = collectives.sum_over_processes((forms - mean).square().sum(0)) / num
    return replace(
        moments_inside(space),
        across=across,
        outside=_mean_of_pairs(each),
        curvature=square / trace,
        multiplicity=trace**2 / square,
    )


def cost_outside(space: Space) -> float:
    """What `moments_with_outside` costs, in products."""
    return (PROBES + space.V.shape[1]) / 2


def _forms(
    operator: ExampleCurvatures, images: list[Images], space: Space
) -> tuple[Tensor, Tensor]:
    """z'G_iz' and z'G_iV of each example, float64: (N, p, p) and (N, p, k)."""
    to_V = [
        space.num_examples * new.weight * new.Z.double().transpose(1, 2) @ old.W.double()
        for new, old in zip(images, space.images, strict=True)
    ]
    return operator.curvatures(images), torch.cat(to_V)


def _bent(operator: ExampleCurvatures, space: Space) -> Tensor:
    """(1 - V V') H V, (n, k) float64."""
    k = space.V.shape[1]
    identity = torch.eye(k, dtype=space.forms.dtype, device=space.forms.device)
    product = operator.pulled_back(space.images, identity.expand(len(space.forms), k, k))
    return _outside(product + operator.shift[:, None] * space.V, space.V).double()


def _summed(formula: str, x: Tensor, num: float) -> Tensor:
    """The mean over all examples of products of x with itself."""
    return collectives.sum_over_processes(torch.einsum(formula, x, x)) / num


def _mean_of_pairs(x: Tensor) -> float:
    """The mean of what is not on the diagonal of a square matrix."""
    p = len(x)
    return float(x.sum() - x.diagonal().sum()) / (p * (p - 1))


def _outside(block: Tensor, V: Tensor) -> Tensor:
    return block - V @ (V.T @ block)

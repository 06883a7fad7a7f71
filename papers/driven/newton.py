"""Many networks driven to where the gradient vanishes: saddle-free Newton on smoothed kinks.

At a kink of ReLU a descent stalls: the loss falls on neither side, and no gradient is small. So
ReLU is first replaced by softplus, log(1 + exp(β z))/β, which differs from it by at most log 2/β;
its networks are driven by Newton steps with |H| (Dauphin et al. 2014), damped as Marquardt has it,
and β is raised until the network with ReLU itself has a gradient that vanishes, or a last β shows
that it has a kink for a minimum. A network of softplus(β ·)/β is one of plain softplus with other
scales of its weights, which `hs.ensemble` computes with, exact Hessians included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from common.keeping import Arrays
from sagun import networks
from torch import Tensor

import hesscope as hs

MARQUARDT = 1e-2  # first damping, of max |λ|
LESS, MORE = 0.25, 4.0  # damping after a step that was taken, or refused
SMALLEST = 1e-14  # damping, of max |λ|
TRIES = 12  # of dampings in a step
LARGE = 200  # parameters
ROUNDING = 1e-13  # of a loss: changes below say nothing, and the gradient decides


@dataclass(frozen=True)
class Field:
    """Networks 2-k-k-2, 784-2-10, ... on one data set, with softplus of some β; None: ReLU."""

    layers: tuple[int, ...]
    X: Tensor
    t: Tensor
    loss: str
    beta: float | None = None

    @property
    def scale(self) -> Tensor:
        """Of each parameter in the network of plain softplus."""
        b, last = self.beta or 1.0, len(self.layers) - 2
        parts = []
        for i, (width, out) in enumerate(pairwise(self.layers)):
            weight = (b if i == 0 else 1.0) / (b if i == last else 1.0)
            parts += [
                torch.full((out * width,), weight),
                torch.full((out,), 1.0 if i == last else b),
            ]
        return torch.cat(parts).double()

    def _of(self, what: Callable[..., Tensor], theta: Tensor) -> Tensor:
        kind = "relu" if self.beta is None else "softplus"
        e = hs.ensemble.Ensemble(self.layers, kind, theta * self.scale)
        return what(e, self.X, self.t, loss=self.loss)

    def losses(self, theta: Tensor) -> Tensor:
        """(num,)."""
        return self._of(hs.ensemble.losses, theta)

    def gradients(self, theta: Tensor) -> Tensor:
        """(num, n)."""
        return self._of(hs.ensemble.gradients, theta) * self.scale

    def hessians(self, theta: Tensor) -> Tensor:
        """(num, n, n)."""
        H = self._of(hs.ensemble.hessians if len(self.scale) < LARGE else self._one_by_one, theta)
        return H * self.scale[:, None] * self.scale

    def _one_by_one(self, e: hs.ensemble.Ensemble, X: Tensor, t: Tensor, loss: str) -> Tensor:
        """From matrix products over the examples, which large networks are quicker by."""
        problems = (networks.problem(e, i, X, t, loss) for i in range(len(e)))
        return torch.stack([hs.Hessian(problem).to_dense() for problem in problems])

    def norms(self, theta: Tensor) -> Tensor:
        """Of the gradients, (num,)."""
        return self.gradients(theta).norm(dim=1)


def driven(
    field: Field, theta: Tensor, betas: Sequence[float], steps: Sequence[int], tolerance: float
) -> Arrays:
    """Where each network ends; β (num,) is the last one it went through, infinite if that was ReLU.

    A network leaves as soon as its own gradient, with ReLU, is below the tolerance.
    """
    theta, last = theta.clone(), torch.zeros(len(theta), dtype=torch.float64)
    taken = torch.zeros(len(theta), dtype=torch.long)
    open_ = torch.arange(len(theta))
    smooth = torch.full((len(theta),), torch.inf, dtype=torch.float64)
    for beta, most in zip(betas, steps, strict=True):
        at = replace(field, beta=beta)
        theta[open_], count = descended(at, theta[open_], most, tolerance)
        taken[open_] += count
        last[open_], smooth[open_] = beta, at.norms(theta[open_])
        open_ = open_[field.norms(theta[open_]) >= tolerance]
        if not len(open_):
            break
    return {
        "theta": theta, "losses": field.losses(theta), "gradient_norms": field.norms(theta),
        "beta": last, "smooth_norms": smooth, "steps": taken,
    }  # fmt: skip


def descended(at: Field, theta: Tensor, steps: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """θ after at most so many Newton steps, and how many were taken."""
    theta, taken = theta.clone(), torch.zeros(len(theta), dtype=torch.long)
    damping = torch.full((len(theta),), MARQUARDT, dtype=torch.float64)
    open_ = torch.arange(len(theta))
    for _ in range(steps):
        g = at.gradients(theta[open_])
        going = g.norm(dim=1) >= tolerance
        open_, g = open_[going], g[going]
        if not len(open_):
            break
        values, vectors = torch.linalg.eigh(at.hessians(theta[open_]))
        theta[open_], damping[open_] = _step(at, theta[open_], g, (values, vectors), damping[open_])
        taken[open_] += 1
    return theta, taken


def _step(
    at: Field, theta: Tensor, g: Tensor, known: tuple[Tensor, Tensor], damping: Tensor
) -> tuple[Tensor, Tensor]:
    """The first step of growing damping that lowers the loss, or where that is rounding |g|."""
    values, vectors = known
    size = values.abs().amax(1)
    slope = (vectors.mT @ g[:, :, None])[:, :, 0]
    before, norm = at.losses(theta), g.norm(dim=1)
    theta, damping = theta.clone(), damping.clone()
    left = torch.arange(len(theta))
    for _ in range(TRIES):
        mu = (damping[left] * size[left])[:, None]
        d = -(vectors[left] @ (slope[left] / (values[left].abs() + mu))[:, :, None])[:, :, 0]
        there = theta[left] + d
        change = at.losses(there) - before[left]
        same = change.abs() <= ROUNDING * before[left]
        better = torch.where(same, at.norms(there) < norm[left], change < 0)
        theta[left[better]] = there[better]
        damping[left] *= torch.where(better, LESS, MORE).double()
        damping.clamp_(SMALLEST, 1e12)
        left = left[~better]
        if not len(left):
            break
    return theta, damping

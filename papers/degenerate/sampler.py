"""A localised sampler with exact acceptance, and whether its chains agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.special import ndtri
from torch import Tensor

ACCEPTED = 0.8  # share of proposals that the step size is adapted to
ADAPTED = 0.05  # largest change of its logarithm, in a step of warming up


@dataclass(frozen=True)
class Chains:
    """Energies t K(w) along chains, (draws, chains), after warming up."""

    energies: Tensor
    accepted: float
    step_size: float


def sample(
    energy: Callable[[Tensor], Tensor],
    centre: Tensor,
    *,
    strength: float,
    chains: int,
    draws: int,
    leaps: int,
    seed: int,
) -> Chains:
    """Hamiltonian Monte Carlo of exp(-energy(w) - strength |w - centre|²/2), half of it warming up.

    Chains start from the localising Gaussian, a tenth as wide. Trajectories have random lengths of
    up to `leaps` steps (Neal 2011), so that none comes back to where it was.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(chains, len(centre), generator=generator, dtype=torch.float64)

    def full(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        w = w.requires_grad_()
        own = energy(w)
        total = own + strength / 2 * (w - centre).square().sum(1)
        (gradient,) = torch.autograd.grad(total.sum(), w)
        return own.detach(), total.detach(), gradient

    w = centre + 0.1 * strength**-0.5 * normal()
    state, size, kept, taken = full(w), 1e-2, [], []
    for step in range(2 * draws):
        p = normal()
        number = int(torch.randint(1, leaps + 1, (), generator=generator))
        there, after, q = _leap(full, w.detach(), state, p, size, number)
        change = state[1] + p.square().sum(1) / 2 - after[1] - q.square().sum(1) / 2
        rate = change.clamp(max=0).exp().nan_to_num(0.0)
        yes = torch.rand(chains, generator=generator, dtype=torch.float64) < rate
        w = torch.where(yes[:, None], there, w).detach()
        state = tuple(
            torch.where(yes[:, None] if a.ndim == 2 else yes, a, b)
            for a, b in zip(after, state, strict=True)
        )
        if step < draws:
            size *= float(torch.exp(ADAPTED * (rate.mean() - ACCEPTED) / (1 - ACCEPTED)))
        else:
            kept.append(state[0])
            taken.append(rate.mean())
    return Chains(torch.stack(kept), float(torch.stack(taken).mean()), size)


def _leap(
    full: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    w: Tensor,
    state: tuple[Tensor, ...],
    p: Tensor,
    size: float,
    number: int,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
    """Leapfrog steps: (where it ends, what there is, momentum)."""
    p = p - size / 2 * state[2]
    for i in range(number):
        w = (w + size * p).detach()
        own, total, gradient = full(w)
        p = p - (size if i < number - 1 else size / 2) * gradient
    return w.detach(), (own, total, gradient), p


def rank_normalised_rhat(draws: Tensor) -> float:
    """R̂ of (draws, chains): halves of chains, ranks made normal; of values or folds, the larger.

    Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021. Below 1.01 chains agree.
    """
    folded = (draws - draws.median()).abs()
    return max(_split(_normal_scores(x)) for x in (draws, folded))


def _normal_scores(x: Tensor) -> Tensor:
    """Quantiles of the normal distribution at (rank - 3/8)/(number + 1/4); ties share a rank."""
    flat = x.flatten()
    order = flat.sort().values
    first = torch.searchsorted(order, flat)
    last = torch.searchsorted(order, flat, right=True)
    rank = (first + last + 1).double() / 2
    scores = ndtri(((rank - 0.375) / (len(flat) + 0.25)).numpy())
    return torch.from_numpy(scores).reshape(x.shape)


def _split(x: Tensor) -> float:
    """Split-R̂: between halves of chains and within."""
    half = len(x) // 2
    parts = torch.cat([x[:half], x[half : 2 * half]], dim=1)
    within = float(parts.var(dim=0).mean())
    between = half * float(parts.mean(0).var())
    return (((half - 1) / half * within + between / half) / within) ** 0.5 if within else 1.0

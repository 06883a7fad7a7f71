"""When the mean square of SGD's errors grows: its second moment, for any linear recurrence.

Near a minimum that all examples share, a step on a random batch multiplies the error x with the
curvature H + N_t of that batch, where H is the mean and N_t has mean zero. The recurrence of
`gains` is then a filter: with ψ_λ(t) its response along an eigenvector of H, of eigenvalue λ, to
one kick at time 0, the second moment M = E x x' of the eigencoordinates stays bounded if and only
if the positive map

    M  ->  G ∘ E[N M N],      G_ab = Σ_t ψ_a(t) ψ_b(t),

has a spectral radius below one (∘ is entry by entry). For gradient descent G_ab =
lr/(λ_a + λ_b - lr λ_a λ_b), and this is the condition of Ma and Ying 2021 and of Mulayoff and
Michaeli 2024; along a single direction with Var(h) = σ² it reads

    lr (λ + (1 + β)/(1 - β) σ²/λ) < 2 (1 + β)

with heavy-ball momentum β: momentum helps against curvature and hurts against noise. A batch of B
of N examples, drawn without replacement, has E[N M N] = (N - B)/(B (N - 1)) times that of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope.steps.kinds import furthest_state, kind_of, unwrapped
from hesscope.steps.stability import threshold

HALVINGS = 40  # of the interval of learning rates
POWERS = 2000  # iterations for a spectral radius
SETTLED = 1e-9  # relative change of it at which they end


@dataclass(frozen=True)
class Recurrence:
    """m ← β m + κ h x, x ← (1 - s) x - lr (a h x + b m) of `gains`, without its lr."""

    a: float = 1.0
    b: float = 0.0
    kappa: float = 1.0
    beta: float = 0.0
    shrink: float = 0.0

    def limit(self) -> float:
        """lr λ at which steps without noise begin to grow: (2 - s)/(a + b κ/(1 + β)).

        >>> round(Recurrence(0.0, 1.0, 1.0, 0.9).limit(), 9)
        3.8
        """
        return (2 - self.shrink) / (self.a + self.b * self.kappa / (1 + self.beta))

    @property
    def accumulation(self) -> float:
        """By how many lr g the steps move in all for one gradient g: a + b κ/(1 - β).

        >>> round(Recurrence(0.0, 1.0, 1.0, 0.9).accumulation, 9)
        10.0
        """
        return self.a + self.b * self.kappa / (1 - self.beta)


@dataclass(frozen=True)
class NoiseMoments:
    """E[N M N] for M = V S V' + α Π, V the k first eigenvectors of H and Π = I - V V'.

    What lies outside of V is told by one number α, as if it were so many directions of one
    curvature: its trace and that of its square are kept. All moments are those of one batch.
    """

    eigenvalues: Tensor  # (k,) of V'HV
    inside: Tensor  # (k², k²): vec S -> vec V'N(V S V')N V
    across: Tensor  # (k, k): V'E[N Π N]V, and the inner product of S with it is tr Π N(V S V')N
    outside: float = 0.0  # E tr(Π N Π N)
    curvature: float = 0.0  # tr(Π H Π H)/tr(Π H)
    multiplicity: float = 0.0  # tr(Π H) over that


def recurrence_of(optimizer: Optimizer) -> Recurrence:
    """How an optimiser with a threshold makes its steps.

    Raises:
        ValueError: if its threshold is not known.

    >>> w = [torch.nn.Parameter(torch.zeros(1))]
    >>> recurrence_of(torch.optim.SGD(w, lr=0.1, momentum=0.9))
    Recurrence(a=0.0, b=1.0, kappa=1.0, beta=0.9, shrink=0.0)
    """
    threshold(optimizer)
    optimizer = unwrapped(optimizer)
    kind = kind_of(optimizer)
    assert kind is not None
    assert kind.gain is not None
    group = next(group for group in optimizer.param_groups if group["params"])
    gain = kind.gain(group, furthest_state(optimizer, group))
    shrink = float(group["lr"]) * kind.decay(group) if kind.is_decoupled(group) else 0.0
    return Recurrence(*gain.weights, gain.momentum, shrink)


def responses(recurrence: Recurrence, lr: float, eigenvalues: Tensor) -> Tensor:
    """G_ab = Σ_t ψ_a(t) ψ_b(t) for each two eigenvalues, (k, k), below the limit without noise.

    ψ is the impulse response of (c z - d)/(z² - T z + D) with the T and D of `gains`, c = lr
    (a + b κ) and d = lr a β. The sums are those of a Stein equation, four numbers a pair.

    >>> responses(Recurrence(), 0.5, torch.tensor([2.0, 1.0]).double())  # lr/(λ + μ - lr λ μ)
    tensor([[0.2500, 0.2500],
            [0.2500, 0.3333]], dtype=torch.float64)
    """
    r, x = recurrence, lr * eigenvalues
    trace = 1 - r.shrink + r.beta - x * (r.a + r.b * r.kappa)
    determinant = r.beta * (1 - r.shrink - x * r.a)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    companion = torch.stack([trace, -determinant, one, zero], 1).view(-1, 2, 2)
    k = len(eigenvalues)
    pairs = torch.einsum("aij,bkl->abikjl", companion, companion).reshape(k, k, 4, 4)
    kick = torch.zeros(k, k, 4, 1, dtype=x.dtype, device=x.device)
    kick[:, :, 0] = 1.0
    sums = torch.linalg.solve(torch.eye(4, dtype=x.dtype, device=x.device) - pairs, kick)
    out = lr * torch.tensor([r.a + r.b * r.kappa, -r.a * r.beta], dtype=x.dtype, device=x.device)
    return torch.einsum("i,abij,j->ab", out, sums.view(k, k, 2, 2), out)


def growth(recurrence: Recurrence, lr: float, moments: NoiseMoments, share: float) -> float:
    """The spectral radius of the map: above one the mean square grows. Below the limit only."""
    return _dominant(recurrence, lr, moments, share)[0]


def leading_moment(
    recurrence: Recurrence, lr: float, moments: NoiseMoments, share: float
) -> Tensor:
    """The part S of the second moment that grows first, (k, k), of norm one at most."""
    return _dominant(recurrence, lr, moments, share)[1]


def _dominant(
    recurrence: Recurrence, lr: float, moments: NoiseMoments, share: float
) -> tuple[float, Tensor]:
    """Spectral radius and leading S by powers, which suffice: the map is positive."""
    k, values = len(moments.eigenvalues), moments.eigenvalues
    if moments.multiplicity > 0:
        values = torch.cat([values, values.new_tensor([moments.curvature])])
    gains = share * responses(recurrence, lr, values)
    within = gains[:k, :k].reshape(-1)
    beyond = float(gains[-1, -1]) / moments.multiplicity if moments.multiplicity > 0 else 0.0
    across = moments.across.reshape(-1)
    S, alpha, radius = torch.eye(k, dtype=values.dtype, device=values.device).reshape(-1), 1.0, 0.0
    for _ in range(POWERS):
        grown = within * (moments.inside @ S + alpha * across)
        alpha = beyond * (float(across @ S) + alpha * moments.outside)
        size = float(torch.hypot(grown.norm(), grown.new_tensor(alpha)))
        if size == 0:
            break
        S, alpha = grown / size, alpha / size
        before, radius = radius, size
        if abs(size - before) <= SETTLED * size:
            break
    return radius, S.view(k, k)


def largest_rate(recurrence: Recurrence, moments: NoiseMoments, share: float) -> float:
    """The lr from which on the mean square grows, by bisection below the limit without noise.

    Args:
        recurrence: how steps are made.
        moments: of the noise of one example.
        share: (N - B)/(B (N - 1)) for batches of B of N examples.

    >>> one = torch.ones(1, 1).double()
    >>> round(largest_rate(Recurrence(), NoiseMoments(one[0], 3 * one, 0 * one), 1.0), 5)
    0.5
    """
    limit = recurrence.limit() / float(moments.eigenvalues.max())
    if share <= 0:
        return limit
    low, high = 0.0, limit
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        stable = growth(recurrence, middle, moments, share) < 1
        low, high = (middle, high) if stable else (low, middle)
        if high - low <= 1e-6 * high:
            break
    return low

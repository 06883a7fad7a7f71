"""The second moment of SGD's errors, against the dense operator on all of (x, m)."""

import pytest
import torch
from torch import nn

from hesscope.steps.moments import NoiseMoments, Recurrence, growth, largest_rate, recurrence_of
from hesscope.steps.stability import threshold

O = torch.optim  # noqa: E741
RECURRENCES = {
    "descent": Recurrence(),
    "heavy ball": Recurrence(0.0, 1.0, 1.0, 0.9),
    "Nesterov": Recurrence(1.0, 0.7, 1.0, 0.7),
    "average": Recurrence(0.0, 1.0, 0.1, 0.9),
    "NAdam": Recurrence(0.1, 0.9, 0.1, 0.9, 0.01),
    "decoupled decay": Recurrence(0.0, 1.0, 1.0, 0.5, 0.02),
}


def curvatures(rank, dim=4, num=12):
    """Positive semidefinite curvatures of single examples, (num, dim, dim)."""
    torch.manual_seed(rank)
    J = torch.randn(num, rank, dim).double() * torch.tensor([2.0, 1.0, 0.5, 0.3])[:dim]
    return J.transpose(1, 2) @ J


def step_matrix(r, lr, h):
    """(x, m) -> (x, m) after a step with the curvature h."""
    identity = torch.eye(len(h)).double()
    x = torch.cat(
        [(1 - r.shrink) * identity - lr * (r.a + r.b * r.kappa) * h, -lr * r.b * r.beta * identity],
        1,
    )
    return torch.cat([x, torch.cat([r.kappa * h, r.beta * identity], 1)])


def dense_rate(r, H, share):
    """By bisection on the spectral radius of E[step ⊗ step], (2 dim)² square."""

    def radius(lr):
        mean = step_matrix(r, lr, H.mean(0))
        steps = [step_matrix(r, lr, h) for h in H]
        operator = sum(torch.kron(s, s) for s in steps) / len(H)
        operator = share * operator + (1 - share) * torch.kron(mean, mean)
        return float(torch.linalg.eigvals(operator).abs().max())

    low, high = 0.0, 1.01 * r.limit() / float(torch.linalg.eigvalsh(H.mean(0))[-1])
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if radius(middle) < 1 else (low, middle)
    return low


def moments_of(H):
    """All moments, in the eigenbasis of the mean, where that has a curvature."""
    values, Q = torch.linalg.eigh(H.mean(0))
    values, Q = values[values > 1e-10 * values[-1]], Q[:, values > 1e-10 * values[-1]]
    N = Q.T @ (H - H.mean(0)) @ Q
    inside = sum(torch.kron(one, one) for one in N.contiguous()) / len(H)
    return NoiseMoments(values, inside, torch.zeros_like(N[0]))


@pytest.mark.parametrize("batch", [1, 3, 8, 11, 12])
@pytest.mark.parametrize("name", RECURRENCES)
def test_the_limit_is_that_of_the_dense_operator(name, batch):
    H, share = curvatures(rank=2), (12 - batch) / (batch * 11)
    expected = dense_rate(RECURRENCES[name], H, share)
    assert largest_rate(RECURRENCES[name], moments_of(H), share) == pytest.approx(
        expected, rel=3e-6
    )


def test_along_one_direction_momentum_helps_against_curvature_and_hurts_against_noise():
    """lr (λ + (1 + β)/(1 - β) σ²/λ) < 2 (1 + β)."""
    one, mean, variance = torch.ones(1, 1).double(), 2.0, 0.5
    moments = NoiseMoments(mean * one[0], variance * one, 0 * one)
    for beta in (0.0, 0.5, 0.9, 0.99):
        effective = mean + (1 + beta) / (1 - beta) * variance / mean
        found = largest_rate(Recurrence(0.0, 1.0, 1.0, beta), moments, 1.0)
        assert found == pytest.approx(2 * (1 + beta) / effective, rel=2e-6)


def test_orthogonal_examples_have_limits_of_their_own():
    """One example a direction, batches of one: 2/max‖H_i‖, N times below 2/λmax."""
    H = torch.diag_embed(torch.diag(torch.tensor([4.0, 2.0, 1.0]).double()))
    assert largest_rate(Recurrence(), moments_of(H), 1.0) == pytest.approx(0.5, rel=2e-6)


@pytest.mark.parametrize("name", ["descent", "heavy ball", "average"])
def test_the_simulated_mean_square_shrinks_below_and_grows_above(name):
    """20,000 independent runs of SGD with batches of one of two examples, one direction."""
    r = RECURRENCES[name]
    H = torch.tensor([1.0, 1.6]).double()[:, None, None]
    limit = largest_rate(r, moments_of(H), 1.0)
    sizes = {}
    for factor in (0.8, 1.25):
        generator = torch.Generator().manual_seed(0)
        x, m = torch.ones(20_000).double(), torch.zeros(20_000).double()
        for _ in range(150):
            h = H[torch.randint(2, (20_000,), generator=generator), 0, 0]
            m = r.beta * m + r.kappa * h * x
            x = (1 - r.shrink) * x - factor * limit * (r.a * h * x + r.b * m)
        sizes[factor] = float(x.square().mean())
    assert sizes[0.8] < 0.1
    assert sizes[1.25] > 10


def test_growth_rises_with_the_rate_and_is_one_at_the_limit():
    moments = moments_of(curvatures(rank=1))
    limit = largest_rate(Recurrence(), moments, 0.5)
    found = [growth(Recurrence(), f * limit, moments, 0.5) for f in (0.5, 0.9, 1.0)]
    assert found[0] < found[1] < found[2]
    assert found[2] == pytest.approx(1.0, abs=1e-4)


MADE = {
    "SGD": (lambda w: O.SGD(w, lr=0.1), Recurrence()),
    "momentum": (lambda w: O.SGD(w, lr=0.1, momentum=0.9), Recurrence(0.0, 1.0, 1.0, 0.9)),
    "Nesterov": (
        lambda w: O.SGD(w, lr=0.1, momentum=0.9, nesterov=True), Recurrence(1.0, 0.9, 1.0, 0.9)
    ),
    "AdamW": (
        lambda w: O.AdamW(w, lr=0.1, weight_decay=0.2),
        Recurrence(0.0, 1.0, pytest.approx(0.1), 0.9, pytest.approx(0.02)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_the_recurrence_is_that_of_the_optimiser(name):
    make, expected = MADE[name]
    assert recurrence_of(make([nn.Parameter(torch.zeros(1))])) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda w: O.SGD(w, lr=0.1, momentum=0.5),
        lambda w: O.SGD(w, lr=0.1, momentum=0.5, nesterov=True),
        lambda w: O.Adam(w),
        lambda w: O.AdamW(w, lr=0.1, weight_decay=0.5),
        lambda w: O.NAdam(w),
        lambda w: O.ASGD(w),
    ],
)
def test_without_noise_its_limit_is_the_threshold(make):
    optimiser = make([nn.Parameter(torch.zeros(1))])
    assert recurrence_of(optimiser).limit() == pytest.approx(threshold(optimiser).factor, rel=1e-11)

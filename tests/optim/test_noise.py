"""Noise has the laws of its papers; saddles are left, and Langevin steps are what they say."""

import math
import statistics

import pytest
import torch
from torch import nn

import hesscope as hs


def saddle(x):
    return (x[0] ** 2 - 1) ** 2 / 4 + (x[1] ** 2 + x[2] ** 2) / 2


def run(optimizer, theta, steps, f=saddle):
    """Steps until the loss is below 0.01, or None."""
    for step in range(steps):
        optimizer.zero_grad()
        loss = f(theta)
        if float(loss.detach()) < 0.01:
            return step
        loss.backward()
        optimizer.step()
    return None


def start():
    return nn.Parameter(torch.tensor([0.0, 0.7, -0.4], dtype=torch.float64))


def test_gradient_descent_and_momentum_stay_on_the_stable_manifold():
    for momentum in (0.0, 0.9):
        theta = start()
        assert run(torch.optim.SGD([theta], lr=0.1, momentum=momentum), theta, 1000) is None
        assert float(saddle(theta.detach())) == pytest.approx(0.25, abs=1e-12)


@pytest.mark.parametrize(
    ("num", "threshold"),
    [
        (30, None),
        pytest.param(200, None, marks=pytest.mark.slow),
        pytest.param(200, 1e-3, marks=pytest.mark.slow),
    ],
)
def test_noise_leaves_the_saddle_every_time(num, threshold):
    """And the median number of steps grows as log(1/radius) over log(1 + lr μ), μ = 1."""
    medians = []
    for radius in (1e-2, 1e-6):
        steps = []
        for seed in range(num):
            theta = start()
            options = {"lr": 0.1, "radius": radius, "threshold": threshold, "seed": seed}
            steps.append(run(hs.optim.PerturbedSGD([theta], **options), theta, 1000))
        assert None not in steps
        medians.append(statistics.median(steps))
    expected = math.log(1e4) / math.log(1.1)
    assert medians[1] - medians[0] == pytest.approx(expected, rel=0.1)


def test_noise_of_every_step_lies_on_the_sphere_and_kicks_in_the_ball():
    first, second = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))
    for threshold in (None, 1.0):
        lengths, moved = [], []
        optimizer = hs.optim.PerturbedSGD(
            [first, second], lr=0.5, radius=0.2, threshold=threshold, wait=0
        )
        for _ in range(400):
            before = torch.cat([first.detach(), second.detach().flatten()])
            for p in (first, second):
                p.grad = torch.zeros_like(p)
            optimizer.step()
            moved.append(torch.cat([first.detach(), second.detach().flatten()]) - before)
            lengths.append(float(moved[-1].norm()))
        if threshold is None:
            assert lengths == pytest.approx([0.1] * 400, rel=1e-3)
        else:  # (length/radius)^n is uniform on (0, 1]
            uniform = torch.tensor(lengths).div(0.2).pow(7)
            assert float(uniform.max()) < 1.001
            assert float(uniform.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * 400))
        mean = torch.stack(moved).mean(0).norm() * math.sqrt(400) / statistics.mean(lengths)
        assert float(mean) < 2  # no direction is preferred: its square is about 1


def test_kicks_wait_and_come_where_the_gradient_is_small():
    theta = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = hs.optim.PerturbedSGD([theta], lr=1e-9, radius=0.1, threshold=0.5, wait=4)
    kicked = []
    for step in range(20):
        before = theta.detach().clone()
        theta.grad = torch.full((2,), 1.0 if step < 3 else 0.1, dtype=torch.float64)
        optimizer.step()
        if float((theta.detach() - before).norm()) > 1e-6:
            kicked.append(step)
    assert kicked == [3, 8, 13, 18]


def test_entropy_sgd_is_the_recurrence_of_its_paper():
    start, f = torch.tensor([1.0, -2.0], dtype=torch.float64), lambda t: (t**4).sum() / 4
    theta = nn.Parameter(start.clone())
    options = {"inner_lr": 0.05, "gamma": 0.3, "growth": 0.5, "alpha": 0.6, "noise": 0.0}
    optimizer = hs.optim.EntropySGD([theta], lr=0.7, num_inner=3, **options)
    for _ in range(6):
        optimizer.zero_grad()
        f(theta).backward()
        optimizer.step()
    x, gamma = start, 0.3
    for _ in range(2):
        inner, mean = x, x
        for _ in range(3):
            inner = inner - 0.05 * (inner**3 - gamma * (x - inner))
            mean = 0.4 * mean + 0.6 * inner
        x, gamma = x - 0.7 * (x - mean), gamma * 1.5
    assert torch.allclose(theta.detach(), x, rtol=1e-13)
    assert torch.equal(optimizer.state[theta]["theta"], theta.detach())


def test_langevin_noise_has_the_variance_of_its_paper():
    theta = nn.Parameter(torch.zeros(20_000, dtype=torch.float64))
    optimizer = hs.optim.EntropySGD([theta], inner_lr=0.04, noise=0.5, num_inner=10)
    theta.grad = torch.zeros_like(theta)
    optimizer.step()
    assert float(theta.detach().std()) == pytest.approx(0.2 * 0.5, rel=5 / math.sqrt(2 * 20_000))


def test_groups_draw_noise_of_their_own():
    first, second = nn.Parameter(torch.zeros(50)), nn.Parameter(torch.zeros(50))
    optimizer = hs.optim.EntropySGD([{"params": [first]}, {"params": [second]}], noise=1.0)
    for p in (first, second):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1].detach())) < 0.7

"""A float64 network that computes a part of itself in fewer digits: what is stated says so."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs


class Tripled(torch.autograd.Function):
    """3 x, multiplied in float32 where no cast of the caller's shows it."""

    @staticmethod
    def forward(ctx, x):
        return (x.float() * 3).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        return 3 * g


class Network(nn.Module):
    def __init__(self, where):
        super().__init__()
        self.body, self.head, self.where = nn.Linear(5, 8), nn.Linear(8, 4), where
        self.register_buffer("mask", torch.ones(8, dtype=torch.float32), persistent=False)

    def forward(self, x):
        hidden = self.body(x).tanh()
        hidden = {
            "inside": lambda: (hidden.float() * 3).to(hidden.dtype),
            "in a custom Function": lambda: Tripled.apply(hidden),
            "in a constant": lambda: hidden * self.mask * 3,
        }.get(self.where, lambda: hidden * 3)()
        outputs = self.head(hidden)
        return outputs.float() if self.where == "in the loss" else outputs


WEAK = ["inside", "in the loss", "in a custom Function"]
ALL = [*WEAK, "in a constant", "nowhere"]


def pair(where, seed):
    """The problem, and one without a cast that has the same exact Hessian."""
    torch.manual_seed(seed)
    model = Network(where)
    model.body.double(), model.head.double()
    exact = copy.deepcopy(model)
    exact.where = "nowhere"
    data = torch.randn(14, 5).double(), torch.arange(14) % 4
    return (hs.Problem(m, F.cross_entropy, data, batch_size=7) for m in (model, exact))


@pytest.mark.parametrize("where", ALL)
def test_the_weakest_step_between_theta_and_the_loss_is_known(where):
    problem, exact = pair(where, 0)
    expected = torch.float32 if where in WEAK else torch.float64
    for operator in (hs.Hessian, hs.GaussNewton, hs.Fisher, hs.GradientCovariance):
        assert operator(problem).precision is expected
        assert operator(exact).precision is torch.float64
    kernel = hs.TangentKernel(problem)
    assert kernel.precision is expected
    assert (2 * hs.Hessian(problem) + hs.Identity(problem.n)).precision is expected
    assert problem.at(problem.theta).weakest is problem.subsample(3).weakest is expected
    single = hs.Problem(
        problem.model.float(), F.cross_entropy, (torch.ones(2, 5), torch.ones(2).long())
    )
    assert single.weakest is torch.float32


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("where", ALL)
def test_every_stated_error_holds(where, seed):
    problem, exact = pair(where, seed)
    H = hs.Hessian(problem)
    truth = torch.linalg.eigvalsh(hs.Hessian(exact).to_dense())
    slack = 1e-14 * float(truth[-1])
    for tol in (1e-3, 1e-6, 1e-10):
        pairs = hs.eigsh(H, 3, tol=tol, seed=seed)
        off = (pairs.eigenvalues - truth.flip(0)[:3]).abs()
        assert (off <= pairs.residuals + slack).all(), (tol, off, pairs.residuals)
    total = hs.trace(H, seed=seed).interval(0.999)
    assert total.low - slack <= float(truth.sum()) <= total.high + slack
    density = hs.spectral_density(H, 40, seed=seed)
    assert density.lower - slack <= float(truth[0])
    assert float(truth[-1]) <= density.upper + slack


@pytest.mark.parametrize("where", ALL)
def test_products_are_measured_against_the_same_without_casts(where):
    problem, exact = pair(where, 0)
    v = torch.randn(problem.n, generator=torch.Generator().manual_seed(0)).double()
    off = float((hs.Hessian(problem) @ v - hs.Hessian(exact) @ v).norm())
    measured = hs.Hessian(problem).measured_noise(v)
    if where in WEAK[:2]:
        assert measured == pytest.approx(off, rel=1e-6)
        assert measured > 1e-10
    else:
        assert measured <= off + 1e-14


def test_a_cast_that_changes_the_loss_is_meant_and_not_lifted():
    class Coarse(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight.half().double())  # 1e-9 is zero there

    torch.manual_seed(0)
    data = torch.randn(20, 3).double(), 1e-9 * torch.randn(20, 1).double()
    problem = hs.Problem(Coarse(3, 1, bias=False).double(), nn.MSELoss(), data)
    problem.write(torch.full((3,), 1e-9, dtype=torch.float64))
    assert problem.weakest is torch.float16
    assert hs.Hessian(problem).measured_noise(torch.ones(3).double()) == 0.0

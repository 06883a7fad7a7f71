"""SAM and ASAM take the gradient where their papers say, and leave no trace of it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.oracles import data

X, Y = data(40, 6, 3)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def by_hand(loss, theta, rho, scale):
    """θ - ∇L(θ + ρ T² g/‖T g‖), with T = scale(θ), on one vector."""
    (g,) = torch.autograd.grad(loss(theta), theta)
    T = scale(theta.detach())
    there = (theta + rho * T**2 * g / (T * g).norm()).detach().requires_grad_()
    (at,) = torch.autograd.grad(loss(there), there)
    return (theta - at).detach()


@pytest.mark.parametrize("kind", ["SAM", "ASAM"])
def test_the_step_is_that_of_the_paper(kind):
    A = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss(theta):
        return (A @ theta).cos().sum() + theta.square().sum()

    start = torch.linspace(-1, 2, 5, dtype=torch.float64)
    theta = start.clone().requires_grad_()
    scale = torch.ones_like if kind == "SAM" else lambda t: t.abs() + 0.01
    expected = by_hand(loss, start.clone().requires_grad_(), 0.3, scale)
    # the norm is over all groups, and rho is that of each
    first, second = (
        nn.Parameter(theta.detach()[:2].clone()),
        nn.Parameter(theta.detach()[2:].clone()),
    )
    groups = [{"params": [first]}, {"params": [second]}]
    optimizer = getattr(hs.optim, kind)(torch.optim.SGD(groups, lr=1.0), rho=0.3)
    loss(torch.cat([first, second])).backward()
    with optimizer.perturbed():
        loss(torch.cat([first, second])).backward()
    optimizer.step()
    assert torch.allclose(flat([first, second]), expected, rtol=1e-12)


def test_asam_does_not_see_a_rescaling_that_the_network_undoes():
    """With η → 0, ReLU layers scaled by 10 and 1/10 rise by the same."""
    rises = []
    for factor in (1.0, 10.0):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
        net.double()
        with torch.no_grad():
            net[0].weight *= factor
            net[2].weight /= factor
        optimizer = hs.optim.ASAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=0.5, eta=1e-300)
        before = F.cross_entropy(net(X), Y)
        before.backward()
        with optimizer.perturbed(), torch.no_grad():
            rises.append(float(F.cross_entropy(net(X), Y) - before))
    assert rises[0] > 0.01
    assert rises[1] == pytest.approx(rises[0], rel=1e-10)


def test_parameters_come_back_to_the_bit_also_after_an_error():
    net = network().float()
    optimizer = hs.optim.SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=3.7, model=net)
    F.cross_entropy(net(X.float()), Y).backward()
    before = flat(net.parameters())

    def failing():
        with optimizer.perturbed():
            assert not torch.equal(flat(net.parameters()), before)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert torch.equal(flat(net.parameters()), before)
    assert net[1].track_running_stats
    with pytest.raises(RuntimeError, match="no gradient was taken at the neighbour"):
        optimizer.step()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_gathered_at_theta_alone(momentum):
    seen = []
    for climbs in (False, True):
        net = network()
        net[1].momentum = momentum
        optimizer = hs.optim.SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=1.0, model=net)
        F.cross_entropy(net(X), Y).backward()
        if climbs:
            with optimizer.perturbed():
                inside = net(X)
                hidden = net[0](X)
                normal = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
                out = net[3](net[2](normal * net[1].weight + net[1].bias))
                assert torch.allclose(inside, out, rtol=1e-10)  # by the batch, as in training
        seen.append({name: t.clone() for name, t in net.named_buffers()})
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])


def test_frozen_normalisation_stays_frozen_inside():
    net = network()
    net[1].eval()
    optimizer = hs.optim.SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=1e-9, model=net)
    outside = net(X)
    F.cross_entropy(outside, Y).backward()
    with optimizer.perturbed():
        assert torch.allclose(net(X), outside, atol=1e-6)


def test_a_gradient_that_is_zero_or_not_finite_moves_nothing():
    for value in (0.0, torch.nan, torch.inf):
        theta = nn.Parameter(torch.ones(3))
        optimizer = hs.optim.SAM(torch.optim.SGD([theta], lr=0.1))
        theta.grad = torch.full((3,), value)
        with optimizer.perturbed():
            assert theta.tolist() == [1.0, 1.0, 1.0]
            assert theta.grad is None


def test_use_out_of_order_is_told():
    theta = nn.Parameter(torch.ones(3))
    optimizer = hs.optim.SAM(torch.optim.SGD([theta], lr=0.1))
    with pytest.raises(RuntimeError, match="no parameter has a gradient; call backward"):
        optimizer.step(lambda: 0.0)
    theta.sum().backward()

    def twice():
        with optimizer.perturbed(), optimizer.perturbed():
            pass

    with pytest.raises(RuntimeError, match="at their neighbour already"):
        twice()
    assert theta.tolist() == [1.0, 1.0, 1.0]

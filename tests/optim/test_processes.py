"""Under DistributedDataParallel all processes make the steps of one that has all of the data."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import hesscope as hs
from tests.oracles import data
from tests.processes import in_processes

X, Y = data(64, 6, 3)
MADE = {
    "SAM": lambda net: hs.optim.SAM(torch.optim.SGD(net.parameters(), lr=0.2), rho=0.1),
    "ASAM": lambda net: hs.optim.ASAM(torch.optim.SGD(net.parameters(), lr=0.2), rho=0.5),
    "noise": lambda net: hs.optim.PerturbedSGD(net.parameters(), lr=0.2, radius=0.05),
    "entropy": lambda net: hs.optim.EntropySGD(net.parameters(), num_inner=3, inner_lr=0.2),
}


def trained(name, wrap, rows):
    """The weights after some steps on these rows, and the wrapped network's losses."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    wrapped, optimizer = wrap(net), MADE[name](net)
    for _ in range(6):
        optimizer.zero_grad()
        F.cross_entropy(wrapped(X[rows]), Y[rows]).backward()
        if hasattr(optimizer, "perturbed"):
            with optimizer.perturbed():
                F.cross_entropy(wrapped(X[rows]), Y[rows]).backward()
        optimizer.step()
    return torch.nn.utils.parameters_to_vector(net.parameters()).detach()


def shares(rank):
    return {name: trained(name, DistributedDataParallel, range(rank, 64, 2)) for name in MADE}


def test_two_processes_make_the_steps_of_one():
    first, second = in_processes(shares, 2)
    for name in MADE:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], trained(name, lambda net: net, range(64)))

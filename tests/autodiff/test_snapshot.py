"""A snapshot holds as long as nothing has changed, however it has changed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.autodiff.snapshot import SMALL, Snapshot


class Net(nn.Module):
    """Small, large and square tensors, a frozen one, buffers, one that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, SMALL // 4)
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.tilted = nn.Parameter(torch.randn(5, 8).T)
        self.register_buffer("mask", torch.tensor([True, False]))
        self.eval()

    def forward(self, x):
        return self.last(self.norm(self.first(x))) + self.frozen.sum() + self.tilted.sum()


def snapshot(net: nn.Module) -> Snapshot:
    problem = hs.Problem(net, F.mse_loss, (torch.randn(3, 8), torch.randn(3, SMALL // 4)))
    return Snapshot(problem.point)


def own_data(net):
    net.first.weight.data = net.first.weight.data.clone().mul_(2)


def turned(net):
    net.first.weight.data = net.first.weight.data.T  # the same memory, another matrix


def cut(net):
    net.frozen.data = net.frozen.data[:3]  # the same memory, less of it


def read_otherwise(net):
    net.frozen.data = net.frozen.data.view(torch.int32)  # the same memory, other numbers


def own_dictionary(net):
    net.norm._buffers = {**net.norm._buffers, "running_var": 2 * net.norm.running_var}


def swapped(net):
    net.first.weight, other = nn.Parameter(2 * net.first.weight.detach()), net.first.weight
    del other


def more(net):
    net.first.register_parameter("gain", nn.Parameter(torch.ones(1)))


def deeper(net):
    net.extra = nn.Linear(1, 1)


def shallower(net):
    net.norm = nn.Identity()


def one_bit(net):
    net.last.weight.data.view(torch.int32)[-1, -1] ^= 1


def nan_then(net):
    net.frozen.data[0] = math.nan
    net.frozen.data[1] = 5.0


def there_and_back(net):
    with torch.no_grad():
        net.first.bias.add_(0.0)


CHANGES = {
    "small data": lambda net: net.first.bias.data.mul_(2),
    "large data": lambda net: net.last.weight.data.add_(1),
    "frozen data": lambda net: net.frozen.data.mul_(2),
    "tilted data": lambda net: net.tilted.data[0, 0].add_(1),
    "buffer": lambda net: net.norm.running_var.mul_(2),
    "whole number": lambda net: net.norm.num_batches_tracked.add_(1),
    "truth": lambda net: net.mask.logical_not_(),
    "numpy": lambda net: net.first.bias.detach().numpy().fill(3.0),
    "state dict": lambda net: net.load_state_dict({k: 3 * t for k, t in net.state_dict().items()}),
    "no bias": lambda net: setattr(net.first, "bias", None),
    "double": lambda net: net.double(),
    **{
        change.__name__: change
        for change in (
            own_data, turned, cut, read_otherwise, own_dictionary, swapped, more, deeper,
            shallower, one_bit, nan_then, there_and_back,
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_is_seen(change):
    net = Net()
    taken = snapshot(net)
    assert taken.holds()
    assert taken.holds()
    change(net)
    assert not taken.holds()


def test_what_changes_no_value_is_no_change():
    net = Net()
    net.frozen.data[0] = math.nan
    taken = snapshot(net)
    assert taken.holds()
    net.frozen.data = net.frozen.data.clone()
    assert taken.holds()
    net.norm.running_mean = net.norm.running_mean.clone()
    assert taken.holds()
    net.zero_grad()
    net(torch.randn(3, 8)).sum().backward()
    assert taken.holds()


def test_other_layouts_and_modules_of_ones_own_are_read_anew():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()
            self.register_buffer("sparse", torch.eye(3).to_sparse())

        def named_parameters(self, *args, **kwargs):
            return self.net.named_parameters(*args, **kwargs)

        def forward(self, x):
            return self.net(x)

    net = Own()
    taken = snapshot(net)
    assert taken.holds()
    net.sparse = 2 * net.sparse
    assert not taken.holds()
    taken = snapshot(net)
    net.net.first.bias.data.mul_(2)
    assert not taken.holds()


def test_other_parameters_have_a_snapshot_of_their_own():
    net = Net()
    problem = hs.Problem(net, F.mse_loss, (torch.randn(3, 8), torch.randn(3, SMALL // 4)))
    there = Snapshot(problem.at(2 * problem.theta).point)
    net.first.weight.data.mul_(2)
    assert there.holds()
    net.frozen.data.mul_(2)
    assert not there.holds()

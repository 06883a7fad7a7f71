"""Data and full-batch training for the clinic; everything drawn from torch's generator."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Data = tuple[Tensor, Tensor]


@cache
def _digits() -> Data:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.data / 16.0), torch.from_numpy(data.target)


def digits(num: int, *, pooled: bool = False) -> Data:
    """Some of the digits: (num, 64) in [0, 1], or averaged over 2 x 2 pixels, and labels."""
    inputs, labels = _digits()
    chosen = torch.randperm(len(inputs))[:num]
    inputs, labels = inputs[chosen], labels[chosen]
    if pooled:
        inputs = nn.functional.avg_pool2d(inputs.reshape(-1, 1, 8, 8), 2).flatten(1)
    return inputs, labels


def two_classes(num: int = 200, features: int = 6, flipped: float = 0.1) -> Data:
    """Standard normal inputs, the sign of a random direction as label 0 or 1, some flipped."""
    inputs = torch.randn(num, features, dtype=torch.float64)
    labels = (inputs @ torch.randn(features, dtype=torch.float64) > 0).double()
    wrong = torch.rand(num) < flipped
    return inputs, torch.where(wrong, 1 - labels, labels)


def linear_targets(num: int = 200, features: int = 6, noise: float = 0.1) -> Data:
    inputs = torch.randn(num, features, dtype=torch.float64)
    targets = inputs @ torch.randn(features, 1, dtype=torch.float64)
    return inputs, targets + noise * torch.randn(num, 1, dtype=torch.float64)


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between, in float64."""
    modules: list[nn.Module] = []
    for before, after in pairwise(widths):
        modules += [nn.Linear(before, after), activation()]
    return nn.Sequential(*modules[:-1]).double()


def train(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    data: Data,
    optimizer: Optimizer,
    num_steps: int,
    batch_size: int | None = None,
) -> None:
    """Steps over the whole data, or over random batches of it."""
    inputs, targets = data
    for _ in range(num_steps):
        if batch_size is not None:
            chosen = torch.randint(len(data[0]), (batch_size,))
            inputs, targets = data[0][chosen], data[1][chosen]
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()


def sgd(model: nn.Module, lr: float, **options: float) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, **options)

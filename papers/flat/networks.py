"""The networks and their data: pooled digits with a perceptron, CIFAR-10 with a ResNet-20."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from common import data
from torch import Tensor, nn
from torch.nn import functional as F

Split = tuple[Tensor, Tensor, Tensor, Tensor]


def digits(num: int) -> Split:
    """`num` training digits of 7 x 7 pixels, and the others of the thousand as test data."""
    X, y = data.digits(pool=4)
    return X[:num], y[:num], X[num:], y[num:]


def shifted(X: Tensor) -> Tensor:
    """Digits moved to the right by one of their seven pixels."""
    return F.pad(X.view(-1, 7, 7), (1, 0))[..., :7].flatten(1)


def perceptron(seed: int, width: int = 32, unit: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """49-32-10 with tanh, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(49, width), unit(), nn.Linear(width, 10)).double()


def cifar(file: Path, num: int, pool: int) -> Split:
    """`num` training and all test images, normalised, and pooled to save time."""
    with np.load(file) as archive:
        found = [torch.from_numpy(archive[f"{what}_{part}"]) for part in ("train", "test") for what in "xy"]  # fmt: skip  # noqa: E501
    X, y, test_X, test_y = found
    images = [F.avg_pool2d(x.permute(0, 3, 1, 2).float() / 255, pool) for x in (X[:num], test_X)]
    mean, std = images[0].mean((0, 2, 3), keepdim=True), images[0].std((0, 2, 3), keepdim=True)
    first, second = ((x - mean) / std for x in images)
    return first, y[:num].long(), second, test_y.long()


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters (He et al. 2016, option A)."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.one, self.two = nn.BatchNorm2d(outer), nn.BatchNorm2d(outer)
        self.stride, self.new = stride, outer - inner

    def forward(self, x: Tensor) -> Tensor:
        """relu(shortcut + two convolutions)."""
        out = self.two(self.second(F.relu(self.one(self.first(x)))))
        short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
        return F.relu(out + short)


def resnet(seed: int, depth: int = 20) -> nn.Module:
    """ResNet-20 for CIFAR-10: 16, 32 and 64 channels, 270,000 parameters."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inner = 16
    for outer in (16, 32, 64):
        for i in range((depth - 2) // 6):
            layers.append(Block(inner, outer, 2 if outer > inner else 1))
            inner = outer
            del i
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

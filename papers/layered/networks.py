"""A perceptron, a convolutional network, a transformer, their data, and what layers they have."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from common import data
from common.gpt import gpt, words
from torch import Tensor, nn

import hesscope as hs


@dataclass(frozen=True)
class Kind:
    """A network and its data; layers are named by `layer(parameter)`, in the order of depth."""

    name: str
    make: Callable[[int], nn.Module]
    data: tuple[Tensor, Tensor]
    layer: Callable[[str], str]

    def problem(self, model: nn.Module) -> hs.Problem:
        """Its mean cross-entropy over all data."""
        return hs.Problem(model, nn.functional.cross_entropy, [self.data])


def kinds(sizes: Any) -> dict[str, Kind]:
    """The three of this study, of `sizes.widths`: perceptron, channels, transformer, its depth."""
    hidden, channels, width, depth = sizes.widths
    digits, labels = data.digits(examples=sizes.examples, pool=4)
    images = digits.view(-1, 1, 7, 7), labels
    text = words(sizes.sequences, 12)
    make = partial(gpt, symbols=27, length=12, width=width, depth=depth)
    return {
        kind.name: kind
        for kind in (
            Kind("MLP", partial(perceptron, hidden), (digits, labels), _numbered),
            Kind("CNN", partial(convolutional, channels), images, _numbered),
            Kind("GPT", make, text, _stage),
        )
    }


def perceptron(
    hidden: int, seed: int, *, depth: int = 4, activation: type[nn.Module] = nn.Tanh,
    inputs: int = 49,
) -> nn.Sequential:  # fmt: skip
    """Inputs, hidden layers, ten classes."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for columns, rows in pairwise((inputs, *[hidden] * depth, 10)):
        layers += [nn.Linear(columns, rows), activation()]
    return _started(nn.Sequential(*layers[:-1]))


def convolutional(channels: int, seed: int) -> nn.Sequential:
    """Four convolutions, 7 x 7 to 2 x 2, with tanh, and a linear layer."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, (inside, outside) in enumerate(pairwise((1, *[channels] * 4))):
        layers += [nn.Conv2d(inside, outside, 3, 1 + i % 2, padding=1), nn.Tanh()]
    return _started(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * channels, 10)))


def _started(model: nn.Sequential) -> nn.Sequential:
    """In float64, with weights that keep the size of signals (Glorot and Bengio 2010)."""
    model.double()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_normal_(parameter)
        else:
            nn.init.zeros_(parameter)
    return model


def _numbered(parameter: str) -> str:
    return parameter.split(".")[0]


def _stage(parameter: str) -> str:
    """Embedding, attention and perceptron of each block with their norms, head with its norm."""
    found = re.match(r"blocks\.(\d+)\.(?:before_)?(\w+)", parameter)
    if found is None:
        return "embedding" if parameter.startswith(("symbol", "place")) else "head"
    return f"{'attention' if found[2] == 'attention' else 'mlp'} {found[1]}"


def trained(kind: Kind, seed: int, steps: int, lr: float) -> nn.Module:
    """By Adam on the full batch."""
    model = kind.make(seed)
    train(kind, model, torch.optim.Adam(model.parameters(), lr), steps)
    return model


def train(kind: Kind, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """Full-batch steps; the loss after them, infinite where it has diverged."""
    inputs, targets = kind.data
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        if not loss.isfinite():
            return float("inf")
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(inputs), targets))


def layers(kind: Kind, problem: hs.Problem) -> dict[str, Tensor]:
    """The coordinates of each layer, in the order of depth."""
    found: dict[str, list[Tensor]] = {}
    for name in problem.layout.names:
        found.setdefault(kind.layer(name), []).append(problem.layout.coordinates(name).flatten())
    return {name: torch.cat(parts) for name, parts in found.items()}


def matrices(problem: hs.Problem) -> dict[str, Tensor]:
    """The coordinates of each weight; queries, keys and values of a fused one apart."""
    found = {}
    for name, shape in zip(problem.layout.names, problem.layout.shapes, strict=True):
        where = problem.layout.coordinates(name)
        if "qkv" in name:
            parts = zip("qkv", where.chunk(3), strict=True)
            found |= {f"{name}.{letter}": part.flatten() for letter, part in parts}
        elif len(shape) > 1:
            found[name] = where.flatten()
    return found

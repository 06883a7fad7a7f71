"""The losses that are searched: small networks of smooth units, with squared error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from common.data import digits
from torch import Tensor, nn

import hesscope as hs
from stationary.finder import Field

SMALL = 0.1  # of the usual start


@dataclass(frozen=True, eq=False)
class Setting:
    """Networks of one shape on one set of data; the loss is the mean squared error."""

    name: str
    words: str
    layers: tuple[int, ...]
    activation: str
    X: Tensor
    T: Tensor
    lr: float
    scale: float = 1.0  # of starts

    @property
    def targets(self) -> int:
        """How many numbers are to be fitted."""
        return self.T.numel()

    def at(self, theta: Tensor) -> hs.ensemble.Ensemble:
        """Networks with these parameters, (num, n)."""
        return hs.ensemble.Ensemble(self.layers, self.activation, theta)

    def starts(self, num: int, seed: int = 0) -> Tensor:
        """torch's own initialisation, (num, n), times the scale."""
        start = hs.ensemble.initialise(self.layers, num, seed=seed, activation=self.activation)
        return self.scale * start.theta

    def losses(self, theta: Tensor) -> Tensor:
        """(num,)"""
        return hs.ensemble.losses(self.at(theta), self.X, self.T, loss="mse")

    def gradients(self, theta: Tensor) -> Tensor:
        """(num, n)"""
        return hs.ensemble.gradients(self.at(theta), self.X, self.T, loss="mse")

    def hessians(self, theta: Tensor) -> Tensor:
        """(num, n, n)"""
        return hs.ensemble.hessians(self.at(theta), self.X, self.T, loss="mse")

    @property
    def field(self) -> Field:
        """What the search needs."""
        return Field(self.losses, self.gradients, self.hessians)

    def trained(
        self, theta: Tensor, steps: int, record: tuple[int, ...] = ()
    ) -> hs.ensemble.Trained:
        """By gradient descent with all data."""
        return hs.ensemble.train(
            self.at(theta), self.X, self.T, loss="mse", lr=self.lr, steps=steps, record=record
        )

    def problem(self, theta: Tensor) -> hs.Problem:
        """One network with these parameters, (n,)."""
        model = self.at(theta[None]).member(0)
        return hs.Problem(model, nn.MSELoss(), (self.X, self.T))

    def with_width(self, width: int) -> Setting:
        """The same with other hidden layers."""
        hidden = (width,) * (len(self.layers) - 2)
        return replace(self, layers=(self.layers[0], *hidden, self.layers[-1]))


def _normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def teacher() -> Setting:
    """Two tanh units and a little noise, to be learnt by five."""
    X = _normal(1, 60, 3)
    T = torch.tanh(X @ _normal(2, 3, 2)) @ _normal(3, 2, 1) + 0.1 * _normal(4, 60, 1)
    return Setting("teacher", "3-5-1 tanh, 60 examples of a teacher", (3, 5, 1), "tanh", X, T, 0.1)


def noise() -> Setting:
    """Nothing to learn: where a random landscape has its best chance."""
    X, T = _normal(5, 100, 6), _normal(6, 100, 2)
    words = "6-5-2 tanh, 100 random examples with random targets"
    return Setting("noise", words, (6, 5, 2), "tanh", X, T, 0.1)


def linear() -> Setting:
    """Three layers without an activation, to learn a map of four singular values."""
    X = _normal(7, 40, 4)
    X = torch.linalg.qr(X - X.mean(0))[0] * 40**0.5  # mean 0, covariance I
    U, V = (torch.linalg.qr(_normal(seed, 4, 4))[0] for seed in (8, 9))
    T = X @ U @ torch.diag(torch.tensor([2.0, 1.5, 1.0, 0.5]).double()) @ V
    words = "4-4-4-4 linear, 40 examples of a map of rank 4"
    return Setting("linear", words, (4, 4, 4, 4), "identity", X, T, 0.05)


def written() -> Setting:
    """The digits 0, 1 and 2, by their first six principal components."""
    X, y = digits(pool=2)
    X, y = X[y < 3], y[y < 3]
    U, sizes, _ = torch.linalg.svd(X - X.mean(0), full_matrices=False)
    X = U[:, :6] * sizes[:6] * (len(X) / sizes[:6].square().mean()).sqrt()
    T = 1.5 * torch.nn.functional.one_hot(y, 3).double()
    words = f"6-4-3 tanh, the {len(X)} digits 0, 1, 2 by six principal components"
    return Setting("digits", words, (6, 4, 3), "tanh", X, T, 0.1)


_MAKERS: dict[str, Callable[[], Setting]] = {
    "teacher": teacher,
    "noise": noise,
    "linear": linear,
    "digits": written,
}


@cache
def setting(name: str) -> Setting:
    """By name; "NAME, small" starts at a tenth of the usual weights."""
    kind, _, small = name.partition(", ")
    found = _MAKERS[kind]()
    return replace(found, name=name, scale=SMALL) if small else found

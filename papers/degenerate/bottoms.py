"""Networks with more parameters than data, fitted exactly, and walks along their zero set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from common.data import digits
from stationary import finder
from stationary.networks import Setting
from torch import Tensor
from torch.func import functional_call, jacrev

LAYERS = (16, 12, 3)
EXAMPLES = 40
FITTED = 1e-10  # loss
Outputs = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Bottom:
    """A setting, other digits, and fitted networks."""

    on: Setting
    X_test: Tensor
    T_test: Tensor

    def outputs(self) -> Outputs:
        """Theta (n,) -> all outputs less targets, (examples · classes,)."""
        model = self.on.at(self.on.starts(1)).member(0)
        shapes = {name: p.shape for name, p in model.named_parameters()}
        sizes = [shape.numel() for shape in shapes.values()]

        def residuals(theta: Tensor) -> Tensor:
            parts = theta.split(sizes)
            weights = {n: x.reshape(s) for (n, s), x in zip(shapes.items(), parts, strict=True)}
            return (functional_call(model, weights, (self.on.X,)) - self.on.T).flatten()

        return residuals

    def test_loss(self, theta: Tensor) -> float:
        """On other digits."""
        model = self.on.at(theta[None]).member(0)
        with torch.no_grad():
            return float((model(self.X_test) - self.T_test).square().mean())


def bottom() -> Bottom:
    """Digits 0, 1 and 2 of 4 x 4 pixels; 40 to fit, the others to test."""
    X, y = digits(pool=7)
    X, y = X[y < LAYERS[-1]], y[y < LAYERS[-1]]
    X = (X - X.mean(0)) / X.std()
    T = torch.nn.functional.one_hot(y, LAYERS[-1]).double()
    words = "16-12-3 tanh, 40 digits of 4 x 4 pixels"
    on = Setting("bottom", words, LAYERS, "tanh", X[:EXAMPLES], T[:EXAMPLES], 0.1)
    return Bottom(on, X[EXAMPLES:], T[EXAMPLES:])


def fitted(b: Bottom, num: int, iterations: int) -> Tensor:
    """Networks of zero loss, (num, n)."""
    return finder.descend(b.on.field, b.on.starts(num, seed=7), iterations)


def walk(
    residuals: Outputs,
    theta: Tensor,
    direction: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    length: float,
) -> Tensor:
    """Points (steps + 1, n) along the zero set: a step in the null space of J, then back.

    `direction` gets θ and the Jacobian, and is projected on the null space. Two Gauss-Newton steps
    bring the residuals back to zero; a step that does not is halved, at most six times.
    """
    points, jacobian = [theta], jacrev(residuals)
    for _ in range(steps):
        J = jacobian(theta)
        d = direction(theta, J)
        d = d - torch.linalg.lstsq(J, J @ d, driver="gelsd").solution
        size = length / float(d.norm().clamp(min=1e-300))
        for halving in range(6):
            there = _back(residuals, jacobian, theta + size / 2**halving * d)
            if float(residuals(there).square().mean()) <= 10 * FITTED:
                theta = there
                break
        points.append(theta)
    return torch.stack(points)


def _back(residuals: Outputs, jacobian: Outputs, theta: Tensor) -> Tensor:
    for _ in range(3):
        r = residuals(theta)
        theta = theta - torch.linalg.lstsq(jacobian(theta), r, driver="gelsd").solution
    return theta

"""Where full-batch gradient descent and SAM come to rest: 2/lr and the edge of SAM.

Along an eigendirection with eigenvalue λ a step of SAM on a quadratic multiplies by
1 - lr λ (1 + ρ λ/‖g‖), so that it is stable below (Long and Bartlett 2023, section 2)

    λ = ‖g‖/(2ρ) (√(1 + 8 ρ/(lr ‖g‖)) - 1) < 2/lr.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs


@dataclass(frozen=True)
class Run:
    """A full-batch training with squared error on one-hot labels."""

    lr: float
    rho: float
    steps: int
    every: int  # steps between two looks


def sam_edge(gradient: float, lr: float, rho: float) -> float:
    """The largest eigenvalue that SAM bears."""
    if rho == 0:
        return 2 / lr
    return gradient / (2 * rho) * (math.sqrt(1 + 8 * rho / (lr * gradient)) - 1)


def follow(
    make: Callable[[int], nn.Module], X: Tensor, y: Tensor, run: Run, seed: int
) -> dict[str, Tensor]:
    """Steps, loss, λmax, the gradient's norm and the edge at every look."""
    model, target = make(seed), F.one_hot(y, 10).double()
    base = torch.optim.SGD(model.parameters(), lr=run.lr)
    optimizer = hs.optim.SAM(base, run.rho) if run.rho else base
    problem = hs.Problem(model, F.mse_loss, (X, target))
    rows, v = [], None
    for step in range(run.steps + 1):
        if step % run.every == 0:
            top = hs.eigsh(hs.Hessian(problem), 1, verify=False, start=v, seed=0)
            v, gradient = top.eigenvectors[:, 0], float(problem.gradient().norm())
            edge = sam_edge(gradient, run.lr, run.rho)
            rows.append([step, problem.loss(), float(top.eigenvalues[0]), gradient, edge])
        optimizer.zero_grad()
        F.mse_loss(model(X), target).backward()
        if run.rho:
            with optimizer.perturbed():
                F.mse_loss(model(X), target).backward()
        optimizer.step()
    names = ("steps", "loss", "lambda_max", "gradient", "edge")
    return dict(zip(names, torch.tensor(rows, dtype=torch.float64).T.contiguous(), strict=True))

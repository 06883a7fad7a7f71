"""Exact Hessian spectra of two small networks trained on the digits, as operators that are known.

Krylov methods from Gaussian starts see an operator through its eigenvalues alone: the law of their
results does not change under rotations. So a diagonal operator stands for the Hessian itself.
"""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import hesscope as hs

NETWORKS = ("early", "late")  # 16-20-10 ReLU after 10 steps of Adam, 64-10-10 tanh after 200


@cache
def hessian_spectrum(name: str) -> Tensor:
    """All eigenvalues of the Hessian, descending, in float64."""
    data = load_digits()
    inputs, labels = torch.from_numpy(data.data / 16.0), torch.from_numpy(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "early":
            inputs = nn.functional.avg_pool2d(inputs.reshape(-1, 1, 8, 8), 2).flatten(1)
            model = nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 10)).double()
        else:
            model = nn.Sequential(nn.Linear(64, 10), nn.Tanh(), nn.Linear(10, 10)).double()
    loss_fn = nn.CrossEntropyLoss()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(10 if name == "early" else 200):
        optimiser.zero_grad()
        loss_fn(model(inputs), labels).backward()
        optimiser.step()
    problem = hs.Problem(model, loss_fn, (inputs, labels))
    return hs.spectrum(hs.Hessian(problem), check=False).eigenvalues.flip(0)

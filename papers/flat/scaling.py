"""One function at several scales of its weights (Dinh, Pascanu, Bengio and Bengio 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from flat import networks
from flat.settings import Sizes

LR = 0.5
Pair = tuple[Tensor, Tensor]


def rescaled(train: Pair, test: Pair, sizes: Sizes) -> dict[str, Tensor]:
    """λmax, ASAM's sharpness and the largest change of an output on test data, (factors, seeds)."""
    columns = [_one(train, test, sizes, seed) for seed in range(sizes.digits)]
    found = torch.tensor(columns, dtype=torch.float64).permute(2, 1, 0).contiguous()
    names = ("lambda_max", "ASAM", "moved")
    return {"factors": torch.tensor(sizes.factors), **dict(zip(names, found, strict=True))}


def _one(train: Pair, test: Pair, sizes: Sizes, seed: int) -> list[list[float]]:
    model = networks.perceptron(seed, sizes.width, nn.ReLU)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for _ in range(sizes.steps):
        optimizer.zero_grad()
        F.cross_entropy(model(train[0]), train[1]).backward()
        optimizer.step()
    with torch.no_grad():
        before = model(test[0])
    rows, scale = [], 1.0
    for factor in sizes.factors:
        with torch.no_grad():
            for parameter in model[0].parameters():
                parameter.mul_(factor / scale)
            model[2].weight.mul_(scale / factor)
            moved = float((model(test[0]) - before).abs().max())
        scale = factor
        problem = hs.Problem(model, F.cross_entropy, train)
        top = float(hs.eigsh(hs.Hessian(problem), 1, seed=0).eigenvalues[0])
        rows.append([top, hs.sharpness(problem)["ASAM"].value, moved])
    return rows

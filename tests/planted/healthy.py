"""Healthy problems that look suspicious: left in training mode, cast inside, scaled, hooked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from tests.networks import resnet
from tests.planted.faults import Maker, bent
from tests.planted.model import NUM, Planted, closure, data, problem


def recorded(model: Planted) -> None:
    seen: list[Any] = []
    model.middle.register_forward_hook(lambda m, i, o: seen.append(o.detach().mean()))
    model.middle.register_full_backward_hook(lambda m, i, o: None)
    for parameter in model.parameters():
        parameter.register_hook(lambda g: g.clamp(-1, 1))


def in_training(model: nn.Module) -> Maker:
    return lambda dtype: problem(copy.deepcopy(model).train(), dtype)


def with_activation(kind: type[nn.Module]) -> Maker:
    return lambda dtype: problem(Planted(activation=kind), dtype)


def scaled(factor: float) -> Maker:
    def make(dtype: torch.dtype) -> hs.Problem:
        model = Planted()
        for parameter in model.parameters():
            parameter.data *= factor
        return problem(model, dtype)

    return make


def outliers(dtype: torch.dtype) -> hs.Problem:
    x, y = data()
    x[17] *= 30
    return hs.Problem(Planted().to(dtype), F.cross_entropy, (x.to(dtype), y), batch_size=20)


def ragged(dtype: torch.dtype) -> hs.Problem:
    """Batches of sequences padded to lengths of their own."""
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    batches = [(torch.randint(0, 9, (5, n)), torch.randint(0, 3, (5,))) for n in (3, 7, 5, 7, 4)]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.mean(1), targets)

    return hs.Problem(model, loss, batches)


def cast_inside(x: Tensor, _: Tensor) -> Tensor:
    return bent(x.float()).to(x.dtype)


def counts_quietly() -> Maker:
    def make(dtype: torch.dtype) -> hs.Problem:
        calls: list[int] = []

        def function(x: Tensor, _: Tensor) -> Tensor:
            calls.append(len(x))
            return bent(x)

        return problem(Planted(function), dtype)

    return make


def penalised(dtype: torch.dtype) -> hs.Problem:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        fit = F.cross_entropy(model(batch[0]), batch[1])
        return fit + 1e-2 * sum(p.square().sum() for p in model.parameters())

    return closure(Planted(), loss, dtype)


def weighted(dtype: torch.dtype) -> hs.Problem:
    weight = torch.tensor([1.0, 2.0, 5.0])
    return problem(
        Planted(),
        dtype,
        loss=lambda out, y: F.cross_entropy(out, y, weight=weight.to(out.dtype)),
        count=lambda y: weight[y].sum(),
    )


def trained(steps: int, rate: float, kind: type[nn.Module] = nn.Tanh) -> Maker:
    def make(dtype: torch.dtype) -> hs.Problem:
        model, (x, y) = Planted(activation=kind), data()
        optimizer = torch.optim.Adam(model.parameters(), rate)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        inputs = x.to(dtype)
        return hs.Problem(model.to(dtype), F.cross_entropy, (inputs, y), batch_size=20)

    return make


def images(dtype: torch.dtype) -> hs.Problem:
    x, y = torch.randn(24, 2, 6, 6), torch.randint(0, 3, (24,))
    return hs.Problem(
        resnet(nn.ReLU).train().to(dtype), F.cross_entropy, (x.to(dtype), y), batch_size=8
    )


def one_at_a_time(dtype: torch.dtype) -> hs.Problem:
    x, y = data(num=9)
    return hs.Problem(Planted().to(dtype), F.cross_entropy, (x.to(dtype), y), batch_size=1)


def regression(loss: Callable[..., Tensor]) -> Maker:
    def make(dtype: torch.dtype) -> hs.Problem:
        x, _ = data()
        y = torch.randn(NUM, 3)
        return hs.Problem(Planted().to(dtype), loss, (x.to(dtype), y.to(dtype)), batch_size=20)

    return make


HEALTHY: dict[str, Maker] = {
    "left in training mode, BatchNorm": in_training(nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))),
    "left in training mode, dropout": in_training(nn.Sequential(
        nn.Linear(5, 6), nn.Dropout(), nn.Tanh(), nn.Linear(6, 3))),
    "images, left in training mode": images,
    "ReLU": with_activation(nn.ReLU),
    "GELU": with_activation(nn.GELU),
    "SiLU": with_activation(nn.SiLU),
    "ELU": with_activation(nn.ELU),
    "hard swish": with_activation(nn.Hardswish),
    "leaky ReLU": with_activation(nn.LeakyReLU),
    "soft sign": with_activation(nn.Softsign),
    "large weights": scaled(5.0),
    "huge weights": scaled(30.0),
    "tiny weights": scaled(1e-3),
    "an outlier in the data": outliers,
    "lengths that differ between batches": ragged,
    "cast to float32 inside": lambda dtype: problem(Planted(cast_inside), dtype),
    "counts its calls for nobody": counts_quietly(),
    "hooks that look only": lambda dtype: _hooked(dtype),
    "penalty on the parameters of the moment": penalised,
    "class weights that are counted": weighted,
    "trained a little": trained(30, 0.02),
    "trained to interpolation": trained(600, 0.05),
    "trained ReLU": trained(200, 0.02, nn.ReLU),
    "one example a batch": one_at_a_time,
    "incomplete last batch": lambda dtype: problem(Planted(), dtype, num=47),
    "mean squared error": regression(F.mse_loss),
    "absolute error": regression(F.l1_loss),
    "smooth absolute error": regression(F.smooth_l1_loss),
}  # fmt: skip


def _hooked(dtype: torch.dtype) -> hs.Problem:
    model = Planted()
    recorded(model)
    return problem(model, dtype)

"""Six ways of training, each to the same losses on the whole of the training data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs

State = dict[str, Tensor]
ROUND = 10  # steps of a round of Entropy-SGD


@dataclass(frozen=True)
class Method:
    """How steps are made; what is zero is left out."""

    batch: int
    rho: float = 0.0  # of SAM
    strength: float = 0.0  # of the trace penalty
    gamma: float = 0.0  # of Entropy-SGD
    noise: float = 0.0  # of its inner steps

    @property
    def steps(self) -> int:
        """Steps after which the model holds θ."""
        return ROUND if self.gamma else 1


@dataclass(frozen=True)
class Entropy(Method):
    """Entropy-SGD with rounds and a mean of one's own."""

    inner: int = 20  # steps of a round
    alpha: float = 0.75  # weight of the newest point in the mean

    @property
    def steps(self) -> int:
        """Those of a round."""
        return self.inner


@dataclass(frozen=True)
class Setting:
    """A network, its data, and what all methods share."""

    make: Callable[[int], nn.Module]  # by seed
    X: Tensor
    y: Tensor
    lr: float
    momentum: float
    targets: tuple[float, ...]  # losses on all training data at which networks are compared
    every: int  # steps between two looks at that loss
    most: int  # steps
    chunk: int  # examples of one pass over all data


@dataclass(frozen=True)
class Reached:
    """The first look at which the loss was at most the target, and the network then."""

    steps: int
    gradients: float
    loss: float
    state: State


def train(setting: Setting, method: Method, seed: int) -> list[Reached]:
    """The network at each of the targets; fewer where the steps did not do."""
    model = setting.make(seed).train()
    found: list[Reached] = []
    for step, gradients in _steps(setting, method, model, seed):
        loss = mean_loss(model, setting)
        while len(found) < len(setting.targets) and loss <= setting.targets[len(found)]:
            state = {name: t.detach().clone() for name, t in model.state_dict().items()}
            found.append(Reached(step, gradients, loss, state))
        if len(found) == len(setting.targets) or not loss < 100:
            break
    return found


def mean_loss(model: nn.Module, setting: Setting) -> float:
    """Of all training data, in training mode: BatchNorm by the statistics of each chunk."""
    buffers = {name: t.clone() for name, t in model.named_buffers()}
    pairs = zip(setting.X.split(setting.chunk), setting.y.split(setting.chunk), strict=True)
    with torch.no_grad():
        losses = [float(F.cross_entropy(model(x), y)) * len(y) for x, y in pairs]
        for name, t in model.named_buffers():
            t.copy_(buffers[name])
    return sum(losses) / len(setting.y)


def _steps(
    setting: Setting, method: Method, model: nn.Module, seed: int
) -> Iterator[tuple[int, float]]:
    """Steps made and what they cost in gradients of a batch, every so often, at θ."""
    optimizer = _optimizer(setting, method, model, seed)
    generator, order = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long)
    cost, at_theta = 0.0, method.steps
    every = -(-setting.every // at_theta) * at_theta
    for step in range(1, setting.most + 1):
        if len(order) < method.batch:
            order = torch.randperm(len(setting.y), generator=generator)
        some, order = order[: method.batch], order[method.batch :]
        cost += _one(optimizer, method, model, setting.X[some], setting.y[some], step)
        if step % every == 0:
            yield step, cost


def _optimizer(
    setting: Setting, method: Method, model: nn.Module, seed: int
) -> torch.optim.Optimizer:
    if method.gamma:
        alpha = method.alpha if isinstance(method, Entropy) else 0.75
        return hs.optim.EntropySGD(
            model.parameters(), inner_lr=setting.lr, num_inner=method.steps, gamma=method.gamma,
            alpha=alpha, noise=method.noise, seed=seed,
        )  # fmt: skip
    sgd = torch.optim.SGD(model.parameters(), lr=setting.lr, momentum=setting.momentum)
    return hs.optim.SAM(sgd, method.rho, model=model) if method.rho else sgd


def _one(
    optimizer: torch.optim.Optimizer,
    method: Method,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    step: int,
) -> float:
    """One step; its cost in gradients."""
    optimizer.zero_grad()
    loss, cost = F.cross_entropy(model(x), y), 1.0
    if method.strength:
        penalty = hs.trace_penalty(model, F.cross_entropy, (x, y), curvature="ggn", seed=step)
        loss, cost = loss + method.strength * penalty, 4.0
    loss.backward()
    if method.rho:
        with optimizer.perturbed():
            F.cross_entropy(model(x), y).backward()
        cost = 2.0
    optimizer.step()
    return cost

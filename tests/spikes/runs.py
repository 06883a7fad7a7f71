"""Small trainings with one planted cause of a spike each, and what is left of them: checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import hesscope as hs
from hesscope.monitor.postmortem import QUANTITIES
from tests.clinic.data import digits

Data = tuple[Tensor, Tensor]
Change = Callable[[Any], None]
WIDTH, NUM, PROBE = 8, 400, 96
WATCHED = (*QUANTITIES, "training_gradient_norm")


def network(depth: int = 2, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """16 pooled pixels to ten classes."""
    widths = [16, *[WIDTH] * (depth - 1)]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


def nothing(_: object) -> None:
    """No change."""


@dataclass
class Training:
    """A training under way; the planted cause changes it before a step."""

    model: nn.Module
    optimizer: Optimizer
    data: Data
    batch_size: int
    loss_fn: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy
    change: Change = nothing
    after: Change = nothing
    half_gradients: bool = False
    step: int = 0
    batch: Data = field(init=False)
    weights: dict[int, Any] = field(default_factory=dict)
    states: dict[int, Any] = field(default_factory=dict)
    batches: dict[int, Data] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def run(self, steps: int, told: Callable[[Tensor], None] | None = None) -> None:
        """Makes the steps, and keeps a checkpoint before each of them."""
        for _ in range(steps):
            places = torch.randperm(len(self.data[0]))[: self.batch_size]
            self.batch = (self.data[0][places], self.data[1][places])
            self.change(self)
            if told is None:
                self.weights[self.step] = copy.deepcopy(self.model.state_dict())
                self.states[self.step] = copy.deepcopy(self.optimizer.state_dict())
            self.batches[self.step] = self.batch
            loss = self.gradient()
            self.losses.append(float(loss))
            self.optimizer.step()
            if told is not None:
                told(loss)
            self.after(self)
            self.step += 1

    def gradient(self) -> Tensor:
        """The loss of the batch, with the gradient left in the parameters."""
        self.optimizer.zero_grad()
        loss = self.loss_fn(self.model(self.batch[0]), self.batch[1])
        loss.backward()
        if self.half_gradients:
            for p in self.model.parameters():
                p.grad.copy_(p.grad.half())
        return loss.detach()

    def problem(self) -> hs.Problem:
        """The probe data: some of what is trained on."""
        probe = (self.data[0][:PROBE], self.data[1][:PROBE])
        return hs.Problem(self.model, self.loss_fn, probe)


def at(step: int, change: Change) -> Change:
    """The change, once, before this step."""

    def once(training: Training) -> None:
        if training.step == step:
            change(training)

    return once


def lr_times(factor: float, groups: Sequence[int] | None = None) -> Change:
    """The lr of these parameter groups, or of all, is multiplied."""

    def change(training: Training) -> None:
        for i, group in enumerate(training.optimizer.param_groups):
            if groups is None or i in groups:
                group["lr"] *= factor

    return change


def ramp(first: float, last: float, steps: int) -> Change:
    """The lr rises from the first value to the last one, in so many steps."""

    def change(training: Training) -> None:
        share = min(training.step / steps, 1.0)
        for group in training.optimizer.param_groups:
            group["lr"] = first + share * (last - first)

    return change


def corrupted(factor: float) -> Change:
    """The inputs of the batch are on another scale."""

    def change(training: Training) -> None:
        inputs, labels = training.batch
        training.batch = (factor * inputs, labels)

    return change


def shuffled(training: Training) -> None:
    """The labels of the batch belong to others."""
    inputs, labels = training.batch
    training.batch = (inputs, (labels + torch.randint(1, 10, labels.shape)) % 10)


def half_moments(training: Training) -> None:
    """The second moments are kept in half precision."""
    for state in training.optimizer.state.values():
        state["exp_avg_sq"].copy_(state["exp_avg_sq"].half())


def subject(seed: int, depth: int, activation: type[nn.Module]) -> tuple[nn.Sequential, Data]:
    """A network and digits, drawn by the seed."""
    torch.manual_seed(seed)
    inputs, labels = digits(NUM, pooled=True)
    return network(depth, activation), (inputs.float(), labels)


def teacher(seed: int) -> tuple[nn.Sequential, Data]:
    """A network that can learn its targets exactly, so that its gradient falls without end."""
    torch.manual_seed(seed)
    inputs, _ = digits(64, pooled=True)
    student = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    teaching = nn.Sequential(nn.Linear(16, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    return student, (inputs, teaching(inputs).detach())

"""The running statistics of normalisation layers away from where they were gathered.

A BatchNorm in evaluation mode divides by statistics of its inputs, which training has gathered in
buffers. They belong to the weights: other weights with these statistics are no network that
anybody has trained, and its loss says nothing (Izmailov et al. 2018, section 3.2, recompute them).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from hesscope.landscape.ends import End, without_masks
from hesscope.problem.problem import Problem
from hesscope.system import collectives

NONE = "none"  # there are no running statistics that the loss uses
RECOMPUTED, INTERPOLATED, FIXED = "recomputed", "interpolated", "fixed"
MODES = (RECOMPUTED, INTERPOLATED, FIXED)


@dataclass(frozen=True, eq=False)
class Between:
    """The problem at points between two ends, each with statistics of its own."""

    problem: Problem
    a: End
    b: End
    statistics: str

    @classmethod
    def of(cls, problem: Problem, a: End, b: End, statistics: str) -> Between:
        """What lies between two ends, in one of `MODES`; "none" where there are no statistics.

        Raises:
            ValueError: if the mode is unknown, or the statistics of an end are not known that are
                to be interpolated.
        """
        if statistics not in MODES:
            msg = f"statistics={statistics!r} is none of {', '.join(map(repr, MODES))}."
            raise ValueError(msg)
        if problem.training or not normalisations(problem.model):
            statistics = NONE
        if statistics == INTERPOLATED and (a.buffers is None or b.buffers is None):
            msg = (
                "statistics='interpolated' needs those of both ends, and a vector carries none: "
                "give the two networks, problems or state dicts in place of theta_a and theta_b."
            )
            raise ValueError(msg)
        return cls(problem, *without_masks(problem, a, b), statistics)

    def at(self, theta: Tensor, t: float) -> Problem:
        """The problem at theta, t of the way from a to b; the ends have their own statistics."""
        there = self._blended(theta, t)
        end = self.a if t == 0 else self.b if t == 1 else None
        own = end is not None and end.buffers is not None
        return there if own or self.statistics != RECOMPUTED else with_statistics(there)

    def recomputed(self, theta: Tensor, t: float) -> Problem:
        """The same with statistics recomputed, at the ends too."""
        return with_statistics(self._blended(theta, t))

    @property
    def passes(self) -> int:
        """Over all data, at an inner point: one for the loss and one for the statistics."""
        return 2 if self.statistics == RECOMPUTED else 1

    def _blended(self, theta: Tensor, t: float) -> Problem:
        there = self.problem.at(theta)
        if self.statistics == FIXED:
            return there
        buffers = self.a.blended(self.b, t)
        return there.with_buffers(buffers) if buffers else there


def with_statistics(problem: Problem) -> Problem:
    """The problem with the running statistics that its own data and parameters give.

    One pass over the data with the normalisation layers in training mode and dropout off. Means and
    variances of all inputs of a layer are pooled over the batches, each by its number of entries
    (variances unbiased, as torch keeps them): the first layer's do not depend on how the data is
    split into batches. Those of later layers do, as in training, for batches are normalised by
    themselves on the way. Costs a forward pass over all data.
    """
    return problem.with_buffers(running_statistics(problem))


def running_statistics(problem: Problem) -> dict[str, Tensor]:
    """The buffers `running_mean` and `running_var` of every normalisation layer, recomputed."""
    layers = normalisations(problem.model)
    pools = {name: _Pool() for name in layers}
    with problem.evaluation() as e, _gathering(layers, pools):
        for batch in e.batches:
            e.loss(batch)
    before, found = problem.point.buffers(), {}
    for name, pool in pools.items():
        for key, value in pool.result().items():
            found[f"{name}.{key}".lstrip(".")] = value.to(before[f"{name}.{key}".lstrip(".")])
    return found


def normalisations(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that keep running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (_BatchNorm, _InstanceNorm)) and module.running_mean is not None
    }


@contextmanager
def _gathering(layers: dict[str, nn.Module], pools: dict[str, _Pool]) -> Iterator[None]:
    """Inside an evaluation, the layers normalise each batch by itself, and pools see their inputs.

    The evaluation puts the modes back.
    """
    handles = []
    for name, layer in layers.items():
        layer.training = True
        see = partial(_see, pools[name], isinstance(layer, _InstanceNorm))
        handles.append(layer.register_forward_pre_hook(see))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _see(pool: _Pool, per_example: bool, _: nn.Module, inputs: Any) -> None:
    pool.add(inputs[0].detach(), per_example)


class _Pool:
    """Mean and variance per channel of all that came, without cancellation (Chan et al. 1983)."""

    def __init__(self) -> None:
        self.count, self.mean, self.spread = (
            0.0,
            torch.zeros((), dtype=torch.float64),
            torch.zeros((), dtype=torch.float64),
        )

    def add(self, inputs: Tensor, per_example: bool) -> None:
        """Takes (batch, channels, ...); per example: the mean of their moments."""
        rows = inputs.double().transpose(0, 1).flatten(1)  # (channels, entries)
        if per_example:
            own = inputs.double().flatten(2)
            mean, spread = own.mean(2).mean(0), own.var(2).mean(0) * len(inputs)
            self._merge(float(len(inputs)), mean, spread, between=False)
            return
        mean = rows.mean(1)
        self._merge(float(rows.shape[1]), mean, (rows - mean[:, None]).square().sum(1))

    def _merge(self, count: float, mean: Tensor, spread: Tensor, between: bool = True) -> None:
        total, shift = self.count + count, mean - self.mean
        apart = shift.square() * (self.count * count / total) if between else 0.0
        self.spread = self.spread + spread + apart
        self.mean = self.mean + shift * (count / total)
        self.count, self.between = total, between

    def result(self) -> dict[str, Tensor]:
        """Over all processes; nothing if the layer was never used."""
        if self.count == 0:
            return {}
        total = collectives.sum_of_number(self.count)
        mean = collectives.sum_over_processes(self.mean * (self.count / total))
        apart = (self.mean - mean).square() * self.count if self.between else 0.0
        spread = collectives.sum_over_processes(self.spread + apart)
        degrees = max(total - 1, 1) if self.between else total
        return {"running_mean": mean, "running_var": spread / degrees}

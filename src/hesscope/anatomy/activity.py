"""What flows through a network in a forward pass: seen by hooks, kept as extremes and sums.

Nothing that is kept grows with the number of batches, and nothing of a batch is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hesscope.results.layers import UnitStatistics
from hesscope.system import collectives

# Below these inputs the slope is at most 1e-3 in size: 0 for ReLU, ReLU6 and Hardswish,
# GELU'(-4) = -5e-4, SiLU'(-10) = -4e-4, Mish'(-10) = -4e-4. Leaky ones never die.
DEAD_BELOW: dict[type[nn.Module], float] = {
    nn.ReLU: 0.0,
    nn.ReLU6: 0.0,
    nn.Hardswish: -3.0,
    nn.GELU: -4.0,
    nn.SiLU: -10.0,
    nn.Mish: -10.0,
}
# Beyond these the slope is below 1 % of its largest: 1 - tanh²(3) = 0.0099, 4 σ(6) σ(-6) = 0.0099.
SATURATED_BEYOND: dict[type[nn.Module], float] = {
    nn.Tanh: 3.0,
    nn.Sigmoid: 6.0,
    nn.Hardsigmoid: 3.0,
}


@dataclass
class _Seen:
    """Extremes of the inputs of one activation, per unit."""

    kind: str
    top: Tensor  # (units,)
    bottom: Tensor
    dead_below: float  # NaN where the activation does not die
    saturated_beyond: float  # NaN where it does not saturate
    saturated: float = 0.0
    num: float = 0.0
    hidden: bool = False


class Activity:
    """Everything that the hooks have seen; `units` and the like sum it up at the end."""

    def __init__(self) -> None:
        self.order: list[str] = []  # layers in the order of their first call
        self.largest_input: Tensor | None = None  # of an example's features, over the data
        self._no_inputs = False
        self._outputs: dict[str, tuple[Tensor, Tensor]] = {}  # extremes of matrix layers' outputs
        self._squares: dict[str, tuple[float, int]] = {}
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._dropped: set[tuple[str, str]] = set()  # the number of units changes from call to call
        self.begin()

    def begin(self) -> None:
        """To be called before each batch."""
        self._feeder, self._axis = "", -1
        self._pending: set[tuple[str, str]] = set()

    def signal(self, name: str) -> float:
        """Root-mean-square output of a layer; NaN if it was never called."""
        squares, num = self._squares.get(name, (0.0, 0))
        squares, total = collectives.sum_of_number(squares), collectives.sum_of_number(num)
        return math.sqrt(squares / total) if total else math.nan

    def units(self) -> tuple[UnitStatistics, ...]:
        """One entry for every activation module after each layer that feeds it."""
        found = []
        for key, seen in self._seen.items():
            if key in self._dropped:
                continue
            dead = _everywhere(_dead(seen)).to(seen.top.device)
            num = collectives.sum_of_number(seen.num)
            share = math.nan
            if not math.isnan(seen.saturated_beyond):
                share = collectives.sum_of_number(seen.saturated) / num
            found.append(
                UnitStatistics(
                    layer=key[1],
                    activation=seen.kind,
                    num=len(dead),
                    dead=_indices(dead),
                    far_dead=count_far(seen.top, seen.bottom, dead),
                    always_on=count_always_on(seen.bottom),
                    saturated=share,
                    num_seen=num / len(dead),
                    hidden=seen.hidden,
                )
            )
        return tuple(found)

    def outputs(self, name: str) -> tuple[Tensor, Tensor] | None:
        """The largest and the smallest output (units,) of a matrix layer over the data."""
        return self._outputs.get(name)

    def dead_inputs(self) -> tuple[int, tuple[int, ...]]:
        """How many features an example has, and which are zero in all the data."""
        if self.largest_input is None or self._no_inputs:
            return 0, ()
        zero = _everywhere(self.largest_input == 0)
        return len(zero), _indices(zero)

    def enter(self, name: str, matrix: bool) -> None:
        """A layer is about to run."""
        if name not in self.order:
            self.order.append(name)
        if matrix:
            for key in self._pending:
                self._seen[key].hidden = True
            self._pending.clear()

    def leave(self, name: str, module: nn.Module, output: Any, matrix: bool) -> None:
        """A layer has run: what follows is fed by it."""
        tensor = _first_tensor(output)
        if tensor is None or tensor.ndim == 0:
            return
        squares, num = self._squares.get(name, (0.0, 0))
        squares += float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64)) ** 2
        self._squares[name] = squares, num + tensor.numel()
        self._axis = _unit_axis(module, tensor.ndim)
        if matrix or not self._feeder:
            self._feeder = name
        if matrix and tensor.numel() and tensor.ndim >= -self._axis:
            top, bottom = _extremes(tensor, self._axis)
            known = self._outputs.get(name, (top, bottom))
            if known[0].shape == top.shape:
                top, bottom = torch.maximum(top, known[0]), torch.minimum(bottom, known[1])
                self._outputs[name] = top, bottom

    def activate(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """An activation is about to run."""
        tensor = _first_tensor(args)
        below, beyond = limits(module)
        if tensor is None or tensor.ndim < -self._axis or tensor.numel() == 0:
            return
        top, bottom = _extremes(tensor, self._axis)
        key = (name, self._feeder)
        kind = f"{type(module).__name__} {name}".strip()
        seen = self._seen.setdefault(key, _Seen(kind, top, bottom, below, beyond))
        if seen.top.shape != top.shape:
            self._dropped.add(key)
            return
        seen.top, seen.bottom = torch.maximum(seen.top, top), torch.minimum(seen.bottom, bottom)
        seen.num += tensor.numel()
        if not math.isnan(beyond):
            seen.saturated += float((tensor.detach().abs() > beyond).sum())
        self._pending.add(key)

    def take_inputs(self, args: tuple[Any, ...]) -> None:
        """The model is about to run on a batch."""
        tensor = _first_tensor(args)
        if tensor is None or tensor.ndim < 2 or not len(tensor):
            self._no_inputs = True
            return
        largest = tensor.detach().flatten(1).abs().amax(0)
        if self.largest_input is None:
            self.largest_input = largest
        elif self.largest_input.shape != largest.shape:
            self._no_inputs = True
        else:
            self.largest_input = torch.maximum(self.largest_input, largest)


@contextmanager
def watched(model: nn.Module, layers: dict[str, tuple[nn.Module, bool]]) -> Iterator[Activity]:
    """Inside, every forward pass of the model is noted; the hooks go whatever happens.

    `layers` maps names to modules, with True for those that multiply by a matrix.
    """
    activity, handles = Activity(), []
    try:
        handles.append(model.register_forward_pre_hook(lambda _, args: activity.take_inputs(args)))
        for name, (module, matrix) in layers.items():
            handles += _hook_layer(activity, name, module, matrix)
        for name, module in model.named_modules():
            if not all(math.isnan(limit) for limit in limits(module)):
                handles.append(_hook_activation(activity, name, module))
        yield activity
    finally:
        for handle in handles:
            handle.remove()


def limits(module: nn.Module) -> tuple[float, float]:
    """Inputs below which it is dead, and in size beyond which it is saturated; NaN if never."""
    kind = type(module)
    below = DEAD_BELOW.get(kind, math.nan)
    if kind.__name__.endswith("GELUActivation"):  # those of Hugging Face
        below = DEAD_BELOW[nn.GELU]
    return below, SATURATED_BEYOND.get(kind, math.nan)


def count_far(top: Tensor, bottom: Tensor, dead: Tensor) -> int:
    """How many dead units are further from zero than the range of their inputs is wide."""
    return int(_everywhere(dead & (torch.minimum(top.abs(), bottom.abs()) >= top - bottom)).sum())


def count_always_on(bottom: Tensor) -> int:
    """How many units have positive inputs only."""
    return int(_everywhere(bottom > 0).sum())


def _extremes(tensor: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """(units,) maxima and minima over everything but the units' axis."""
    values = tensor.detach().movedim(axis, -1).flatten(0, -2)
    return values.amax(0), values.amin(0)


def _hook_layer(activity: Activity, name: str, module: nn.Module, matrix: bool) -> list[Any]:
    return [
        module.register_forward_pre_hook(lambda *_: activity.enter(name, matrix)),
        module.register_forward_hook(
            lambda module, _, output: activity.leave(name, module, output, matrix)
        ),
    ]


def _hook_activation(activity: Activity, name: str, module: nn.Module) -> Any:
    """Before the call: the activation may work in place."""
    return module.register_forward_pre_hook(
        lambda module, args: activity.activate(name, module, args)
    )


def _dead(seen: _Seen) -> Tensor:
    """(units,) whether a unit has no slope on all the data (saturated on one side included)."""
    if not math.isnan(seen.dead_below):
        return seen.top <= seen.dead_below
    return (seen.bottom > seen.saturated_beyond) | (seen.top < -seen.saturated_beyond)


def _unit_axis(module: nn.Module, ndim: int) -> int:
    """Where the units of a layer's output lie, counted from the end."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return -len(module.kernel_size) - 1
    if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm)):
        return min(-1, 1 - ndim)
    return -1


def _first_tensor(content: Any) -> Tensor | None:
    """The first floating tensor, unless torch.func has wrapped it: its values are not to be had."""
    for item in content if isinstance(content, (tuple, list)) else (content,):
        if isinstance(item, Tensor) and item.is_floating_point():
            return None if torch._C._functorch.is_functorch_wrapped_tensor(item) else item
    return None


def _everywhere(mask: Tensor) -> Tensor:
    """The mask, true only where it is true in all processes."""
    return collectives.sum_over_processes(mask.double()) == collectives.num_processes()


def _indices(mask: Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero().flatten().tolist())

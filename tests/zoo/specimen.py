"""One model of the zoo: how it is made, fed and asked for its mean loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NUM, CUT = 5, 3  # examples of a batch, and of the first of two


def loss_of_output(model: nn.Module, batch: Any) -> Tensor:
    """The loss that a model of transformers computes; some do so when asked only."""
    switches = set(inspect.signature(model.forward).parameters) & {"return_loss"}
    return model(**batch, **dict.fromkeys(switches, True)).loss


@dataclass(frozen=True)
class Specimen:
    """A row of the tables. Nothing is imported before `make` is called.

    Args:
        make: eager -> the model with the weights of seed 0; eager asks for the elementary form of
            attention and experts, which the reference differentiates.
        batch: generator -> one batch of NUM examples in float32.
        loss: (model, batch) -> mean loss.
        count: batch -> items that the loss averages over; by default the examples.
        axis: along which axis of its tensors a batch holds examples.
        indivisible: the loss compares the examples of a batch (contrastive losses, the likelihood
            of a process), so that each batch is one item, whatever it holds.
    """

    name: str
    family: str
    make: Callable[[bool], nn.Module]
    batch: Callable[[torch.Generator], Any]
    loss: Callable[[nn.Module, Any], Tensor] = loss_of_output
    count: Callable[[Any], Any] | None = None
    axis: int = 0
    indivisible: bool = False

    def batches(self, parts: int, dtype: torch.dtype) -> list[Any]:
        """The same examples in one batch, or in two of unequal size."""
        whole = cast(self.batch(torch.Generator().manual_seed(1)), dtype)
        if parts == 1:
            return [whole]
        return [self.cut(whole, slice(CUT)), self.cut(whole, slice(CUT, NUM))]

    def cut(self, batch: Any, part: slice) -> Any:
        if isinstance(batch, Tensor):
            return batch[(slice(None),) * self.axis + (part,)].clone()
        if isinstance(batch, Mapping):
            return {key: self.cut(value, part) for key, value in batch.items()}
        if isinstance(batch, tuple):
            return tuple(self.cut(value, part) for value in batch)
        return batch[part]  # a list with one entry an example

    def items(self, batch: Any) -> float:
        """How many items a batch stands for."""
        rule = self.rule()
        return float(rule(batch) if rule else self.examples(batch))

    def rule(self) -> Callable[[Any], Any] | None:
        """How many items a batch counts."""
        return (lambda _: 1) if self.indivisible else self.count

    def given(self) -> Callable[[Any], Any] | int | None:
        """What a user passes as `count` of a loss of their own."""
        return 1 if self.indivisible else self.count

    def examples(self, batch: Any) -> int:
        values = batch.values() if isinstance(batch, Mapping) else batch
        return batch.shape[0] if isinstance(batch, Tensor) else len(next(iter(values)))


def cast(batch: Any, dtype: torch.dtype) -> Any:
    """A copy in which every real number has the dtype."""
    return each(batch, lambda t: t.to(dtype, copy=True) if t.is_floating_point() else t.clone())


def each(batch: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """A batch of the same form with f of its tensors."""
    if isinstance(batch, Tensor):
        return f(batch)
    if isinstance(batch, Mapping):
        return {key: each(value, f) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(each(value, f) for value in batch)
    return batch.clone().apply(f)  # graphs


def same(mine: Any, its: Any) -> bool:
    """Whether two batches hold the same tensors."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for batch, tensors in zip((mine, its), found, strict=True):
        each(batch, lambda t, tensors=tensors: tensors.append(t) or t)
    return len(found[0]) == len(found[1]) and all(map(torch.equal, *found))


def moved(model: nn.Module, scale: float = 0.1) -> nn.Module:
    """The model some way from its start, where fresh weights hide most of the curvature."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(scale * noise.to(parameter.dtype))
    return model

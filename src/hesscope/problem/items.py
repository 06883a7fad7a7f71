"""What a mean loss averages over, found by measurement: c ℓ = c₁ ℓ₁ + c₂ ℓ₂ for parts of a batch.

Masking halves of the targets cuts where nothing else does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.problem.contents import map_tensors
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.examples import num_examples, take
from hesscope.problem.rules import EXAMPLES, IGNORED, Counted, Rule, holds_ignored

MOST_BATCHES = 3  # that are measured


Count = Callable[[Any], Any] | float | None  # how users say what a batch counts


@dataclass(frozen=True)
class Counting:
    """How many items a batch counts, and whether it is one item, whole."""

    count_of: Callable[[Any], float]
    whole: bool = False

    @classmethod
    def of(cls, count: Count, counted: Counted, default: Callable[[Any], float]) -> Counting:
        """What the user said, or the default, which counts the whole batch.

        Raises:
            ValueError: if it is a number other than 1, or neither a number nor a function.
        """
        if count is None:
            return cls(lambda content: float(default(content)))
        if callable(count):
            return cls(lambda content: float(count(counted.of(content))))
        if count == 1:
            return cls(lambda _: 1.0, whole=True)
        msg = (
            f"count={count!r}: give a function of the {counted.name}, or 1 if every batch is one "
            "item that is never cut."
        )
        raise ValueError(msg)


def telling(batches: list[Batch]) -> list[Batch]:
    """The batches, those that tell rules of counting apart first."""
    return sorted(batches, key=lambda batch: not holds_ignored(batch.content))


@dataclass(frozen=True)
class Measured:
    """The losses of a batch and of two parts of it."""

    whole: float
    content: Any
    parts: tuple[tuple[float, Any], tuple[float, Any]]
    dtype: torch.dtype
    masked: bool  # the parts are the whole with some targets ignored

    def misfit(self, count: Callable[[Any], float]) -> float:
        """How far c ℓ is from c₁ ℓ₁ + c₂ ℓ₂, relative; infinite if the counts do not add up."""
        counts = [float(count(content)) for _, content in self.parts]
        total = float(count(self.content))
        if total <= 0 or not math.isclose(sum(counts), total, rel_tol=rounding.MASS):
            return math.inf
        mean = sum(c * loss for c, (loss, _) in zip(counts, self.parts, strict=True) if c) / total
        return abs(mean - self.whole) / max(abs(self.whole), rounding.POSITIVE)


def measured(e: Evaluation, batches: list[Batch]) -> list[Measured]:
    """Each batch beside two parts of it: cut in two ways, and masked where some targets are."""
    found: list[Measured] = []
    for batch in batches:
        whole = _value(e, batch, batch.content)
        pairs = [*((False, *pair) for pair in _cut(batch)), *((True, *p) for p in _masked(batch))]
        for masked, one, two in pairs if whole is not None else ():
            values = _value(e, batch, one), _value(e, batch, two)
            if whole is not None and values[0] is not None and values[1] is not None:
                parts = (float(values[0]), one), (float(values[1]), two)
                found.append(Measured(float(whole), batch.content, parts, whole.dtype, masked))
    return found


def fitting(rules: list[Rule], counted: Counted, losses: list[Measured]) -> list[Rule]:
    """The rules under which all these losses are means, as exactly as under any."""
    misfits = [_misfit(rule, counted, losses) for rule in rules]
    if not losses:
        return []
    weakest = max((m.dtype for m in losses), key=rounding.eps)
    least = min(misfits)
    if least > rounding.recomputed(weakest):
        return []
    bound = max(3 * least, 10 * rounding.eps(weakest))
    return [rule for rule, misfit in zip(rules, misfits, strict=True) if misfit <= bound]


def _misfit(rule: Rule, counted: Counted, losses: list[Measured]) -> float:
    """The largest; infinite where the rule does not apply to these batches.

    Numbers of -100 need not be ignored targets: what is masked tells nothing against examples.
    """
    telling = [m for m in losses if not (m.masked and rule is EXAMPLES)]
    try:
        return max(
            (m.misfit(lambda content: rule.count(counted.of(content))) for m in telling),
            default=math.inf,
        )
    except (ValueError, LookupError):
        return math.inf


def _value(e: Evaluation, batch: Batch, content: Any) -> Tensor | None:
    """The loss of a part; None where the model refuses it or has nothing to average."""
    try:
        loss = e.loss(replace(batch, content=content)).detach()
    except ValueError:
        return None
    return loss if bool(loss.isfinite()) else None


def _cut(batch: Batch) -> Iterator[tuple[Any, Any]]:
    try:
        size = num_examples(batch.content)
    except ValueError:  # the examples of this batch cannot be told apart
        return
    for cut in sorted({1, size // 2} & set(range(1, size))):
        yield take(batch.content, slice(0, cut)), take(batch.content, slice(cut, size))


def _masked(batch: Batch) -> Iterator[tuple[Any, Any]]:
    """The batch twice, with the targets of either half of it ignored; where some are already."""
    if holds_ignored(batch.content):
        yield (
            map_tensors(batch.content, lambda t: _half_ignored(t, first=True)),
            map_tensors(batch.content, lambda t: _half_ignored(t, first=False)),
        )


def _half_ignored(tensor: Tensor, *, first: bool) -> Tensor:
    if tensor.is_floating_point() or not bool((tensor == IGNORED).any()):
        return tensor
    half = torch.arange(len(tensor), device=tensor.device) < len(tensor) // 2
    chosen = half if first else ~half
    return tensor.masked_fill(chosen.reshape(-1, *[1] * (tensor.ndim - 1)), IGNORED)

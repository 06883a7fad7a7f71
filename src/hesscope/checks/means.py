"""Is the loss of a batch the same each time, and the count-weighted mean of that of its parts?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor, nn

from hesscope.checks.differences import direction
from hesscope.checks.state import State
from hesscope.problem.contents import map_tensors, tensors_in
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.examples import num_examples, take
from hesscope.problem.items import (
    EXAMPLES,
    WHOLE_BATCH,
    Counted,
    Measured,
    Rule,
    fitting,
    holds_ignored,
    measured,
    rules_for,
)
from hesscope.problem.problem import Problem
from hesscope.results.check import Finding


def loss_is_repeatable(state: State) -> Finding | None:
    """One batch has one loss, under one random seed and under another."""
    problem, batch = state.problem, state.first_batch()
    with problem.evaluation() as e:
        losses = (e.finite_loss(batch, seed=seed) for seed in (1, 1, 2))
        once, again, other = (float(loss.detach()) for loss in losses)
    if once != again and not _close(once, again, state.tolerance):
        return Finding(
            "stateful_loss",
            f"two evaluations of one batch under one random seed differ ({once:.8g}, {again:.8g}): "
            "the model or the loss keeps state between calls, or writes into its inputs.",
            "reset that state in forward(), or register it with register_buffer; replace in-place "
            "operations on inputs, such as x.mul_(2), by x * 2.",
        )
    if once == other or _close(once, other, state.tolerance):
        return None
    active = _named(problem.model, lambda m: m.training and "Dropout" in type(m).__name__)
    if active:
        return Finding(
            "dropout",
            f"dropout is active in {', '.join(active[:3])}: every evaluation is another network.",
            "measure in evaluation mode: leave out training=True.",
        )
    return Finding(
        "random_loss",
        f"two evaluations of one batch differ ({once:.8g}, {other:.8g}): the model or the loss "
        "draws random numbers, such as F.dropout without training=self.training or added noise.",
        "pass training=self.training to F.dropout, or switch the noise off while measuring.",
    )


def loss_is_a_mean(state: State) -> Finding | None:
    """c ℓ = c₁ ℓ₁ + c₂ ℓ₂ for batches and several ways to cut each into two parts."""
    problem, first = state.problem, state.first_batch()
    if first.whole:
        state.could_not_ask(
            "batches_are_items",
            "count=1 says that every batch is one item: the loss is the mean over the batches, "
            "none is cut, and where examples are spoken of (noise, data error), batches are meant.",
            "nothing, if the loss couples what a batch holds, as contrastive losses do.",
        )
        return None
    if isinstance(first.content, tuple) and not first.content:
        return None  # a function of the parameters alone
    checked = 0
    for batch in islice(problem.batches, 3):
        for parts in _two_parts(problem, batch):
            with problem.evaluation() as e:
                whole, one, two = (_value(e, b) for b in (batch, *parts))
            if whole is None or one is None or two is None:
                continue
            checked += 1
            expected = (parts[0].count * one + parts[1].count * two) / batch.count
            if not _same_loss(state, batch, whole, expected):
                if _examples_lie_on_axis_1(state, batch, whole):
                    return None
                return _why_not_a_mean(state, batch, whole, expected, one + two)
        fault = _ignored_ones_count(state, batch)
        if fault is not None:
            return fault
    if not checked:
        state.could_not_ask(
            "mean_not_checked",
            "the first batches cannot be cut into two parts that both count and that the model "
            "accepts, so it is not known whether the loss is a mean over `count` items.",
            "make sure that it is; count=1 if a batch is one item that cannot be cut.",
        )
    return None


def _ignored_ones_count(state: State, batch: Batch) -> Finding | None:
    """Whether targets of -100 are counted, seen by ignoring more of them: without any cut."""
    problem = state.problem
    if len(problem.batches) == 1 or not holds_ignored(batch.content):
        return None  # the count of a single batch is no matter
    masked = [m for m in _measured(state, batch) if m.masked]
    own = Rule("what count counts", "", problem.batches.count_of)
    found = fitting(rules_for(problem.counted, batch.content), problem.counted, masked)
    if not found or fitting([own], WHOLE_BATCH, masked):
        return None
    return Finding(
        "ignored_targets",
        "targets of -100 are ignored by the loss but counted as items: where more of them are "
        "ignored, it does not change as `count` says.",
        _count_as(problem.counted, found[0]),
    )


def _measured(state: State, batch: Batch) -> list[Measured]:
    with state.problem.evaluation() as e:
        return measured(e, [batch])


def _count_as(counted: Counted, rule: Rule) -> str:
    if rule is EXAMPLES:
        return "leave out `count`: the loss averages over examples, as measured."
    return (
        f"count what the loss averages over, as measured: count=lambda {counted.name}: {rule.code}."
    )


def _examples_lie_on_axis_1(state: State, batch: Batch, whole: float) -> bool:
    """Whether the loss is a mean over cuts along the second axis: sequences with time first."""
    tensors = tensors_in(batch.content)
    sizes = {tensor.shape[1] if tensor.ndim > 1 else -1 for tensor in tensors}
    if len(sizes) != 1 or -1 in sizes:
        return False
    (size,) = sizes
    for cut in sorted({1, size // 2} & set(range(1, size))):
        expected = 0.0
        with state.problem.evaluation() as e:
            for places, share in ((slice(0, cut), cut), (slice(cut, size), size - cut)):
                content = _along_axis_1(batch, places)
                value = _value(e, Batch(batch.index, content, batch.count * share / size))
                expected += math.nan if value is None else value * share / size
        if not _same_loss(state, batch, whole, expected):
            return False
    state.note(
        "examples_on_axis_1",
        "the loss is a mean over the second axis of its tensors, not over the first: sequences "
        "with time first. Losses, gradients and Hessians are right; what needs single examples "
        "(noise over the data, data error bars, subsample) treats a batch as one.",
        "for these, put the examples first (batch_first=True), or give 32 batches or more.",
    )
    return size > 1


def _along_axis_1(batch: Batch, places: slice) -> Any:
    return map_tensors(batch.content, lambda tensor: tensor[:, places])


def _value(e: Evaluation, batch: Batch) -> float | None:
    """The loss of a batch or part, NaN where it averages over nothing, None where it fails.

    A model or loss may refuse a batch of one example, which says nothing about the mean.
    """
    try:
        loss = float(e.loss(batch).detach())
    except ValueError:
        return None
    return loss if math.isfinite(loss) else math.nan


def _why_not_a_mean(
    state: State, batch: Batch, whole: float, expected: float, total: float
) -> Finding | None:
    problem = state.problem
    numbers = f"a batch has loss {whole:.6g}, its two parts average to {expected:.6g}"
    normalised = _named(problem.model, _uses_batch_statistics)
    if normalised:
        return Finding(
            "batch_statistics",
            f"{numbers}: {', '.join(normalised[:3])} normalises with the statistics of the batch, "
            "so the loss of an example depends on its neighbours.",
            "measure in evaluation mode with running statistics: leave out training=True.",
        )
    if _close(whole, total, state.tolerance):
        return Finding(
            "sum_reduction",
            f"{numbers} and add up to {total:.6g}: the loss is a sum over the batch.",
            "use reduction='mean'; hesscope weighs batches by their count itself.",
        )
    if holds_ignored(batch.content):
        rules = rules_for(problem.counted, batch.content)
        found = fitting(rules, problem.counted, _measured(state, batch))
        if found:
            return Finding(
                "ignored_targets",
                f"{numbers}: targets of -100 are ignored by the loss but counted as items.",
                _count_as(problem.counted, found[0]),
            )
    if isinstance(getattr(problem.loss_fn, "weight", None), Tensor):
        return _coupled(
            state,
            "class_weights",
            f"{numbers}: the loss has class weights and divides by the sum of them, not by the "
            "number of targets.",
            "count what the loss divides by: count=lambda targets: loss_fn.weight[targets].sum().",
        )
    return _not_a_mean(state, batch, numbers)


def _not_a_mean(state: State, batch: Batch, numbers: str) -> Finding | None:
    """Names what the loss divides by where measurement finds it, and else what it may be."""
    problem = state.problem
    rules = fitting(
        rules_for(problem.counted, batch.content), problem.counted, _measured(state, batch)
    )
    cause = (
        f"{numbers}: the loss does not average over what `count` counts. Either it divides by "
        "something else (masked tokens, class weights), or it couples the examples of a batch."
    )
    cure = (
        "pass `count` with what the loss divides by, for class weights "
        "count=lambda y: weight[y].sum(); for a loss that couples examples (contrastive), count=1 "
        "makes each batch one item."
    )
    return _coupled(
        state, "not_a_mean", cause, _count_as(problem.counted, rules[0]) if rules else cure
    )


def _coupled(state: State, name: str, cause: str, cure: str) -> Finding | None:
    """A loss that is right for the whole batch only: a fault when there are several batches."""
    if len(state.problem.batches) > 1:
        return Finding(name, cause, cure)
    state.note(name, cause, cure)
    return None


def _two_parts(problem: Problem, batch: Batch) -> Iterator[tuple[Batch, Batch]]:
    """A few uneven cuts of a batch into two parts that both count something."""
    try:
        size = num_examples(batch.content)
    except ValueError:  # the examples of a batch cannot be told apart
        return
    for cut in sorted({1, size // 3, size // 2 + 1, size - 1} & set(range(1, size))):
        contents = take(batch.content, slice(0, cut)), take(batch.content, slice(cut, size))
        counts = [float(problem.batches.count_of(content)) for content in contents]
        adds_up = abs(sum(counts) - batch.count) <= 1e-5 * batch.count  # else it is one item
        if min(counts) > 0 and adds_up:
            one, two = (
                Batch(batch.index, content, count)
                for content, count in zip(contents, counts, strict=True)
            )
            yield one, two


def _named(model: nn.Module, test: Callable[[nn.Module], bool]) -> list[str]:
    return [name or type(model).__name__ for name, module in model.named_modules() if test(module)]


def _uses_batch_statistics(module: nn.Module) -> bool:
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return False
    return module.training or module.running_mean is None


def _same_loss(state: State, batch: Batch, a: float, b: float) -> bool:
    """Whether two values of one loss agree up to the rounding of its forward pass.

    Rounding acts like a relative change of the parameters, so two values also agree when such a
    change moves the loss as far: a loss of 1e-33 = (1e-16)² has no correct digit.
    """
    if _close(a, b, state.usual_tolerance) or _close(a, b, state.tolerance):
        return True
    problem = state.problem
    moved = problem.at(problem.theta + state.tolerance * direction(problem, seed=8))
    with moved.evaluation() as e:
        value = _value(e, batch)
    return value is not None and abs(a - b) <= 10 * abs(value - a)


def _close(a: float, b: float, tolerance: float) -> bool:
    """Whether two losses agree up to rounding; NaN agrees with nothing."""
    return abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-30)

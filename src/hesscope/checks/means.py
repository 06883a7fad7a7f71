"""Is the loss of a batch the count-weighted mean of that of its parts?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from hesscope.checks.coupling import Call, coupling_module
from hesscope.checks.differences import direction
from hesscope.checks.repeatable import close
from hesscope.checks.state import State
from hesscope.problem.contents import map_tensors, tensors_in
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.examples import num_examples, take
from hesscope.problem.items import Measured, fitting, measured
from hesscope.problem.losses import options_of
from hesscope.problem.problem import Problem
from hesscope.problem.rules import (
    EXAMPLES,
    IGNORED,
    WHOLE_BATCH,
    Counted,
    Rule,
    all_rules_for,
    holds_ignored,
    rules_for,
)
from hesscope.results.check import Finding

LOOKED_AT = 8  # batches, the first and the last among them


def loss_is_a_mean(state: State) -> Finding | None:
    """c ℓ = c₁ ℓ₁ + c₂ ℓ₂ for batches from all of the data, and ways to cut each in two.

    Three cuts of the first batch and one of each other.
    """
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
    for batch in _spread(problem):
        known: list[tuple[Batch, Batch, Measured]] = []
        for one, two in _two_parts(problem, batch, all_cuts=not checked):
            cut = _cut(state, batch, one, two, known)
            if cut is None:
                continue
            checked += 1
            known.append((one, two, cut))
            if not _is_mean(state, batch, one, two, cut):
                if _examples_lie_on_axis_1(state, batch, cut.whole):
                    return None
                return _why_not_a_mean(state, batch, known)
        fault = _ignored_ones_count(state, batch)
        if fault is not None:
            return fault
    if not checked:
        state.could_not_ask(
            "mean_not_checked",
            "the first batches cannot be cut into two parts that both count and that the model "
            "accepts, so it is not known whether the loss is a mean over `count` items.",
            "make sure that it is.",
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
    return f"count what the loss divides by: count=lambda {counted.name}: {rule.code}."


def _spread(problem: Problem) -> Iterator[Batch]:
    """The first batch, the last, and some from between."""
    num = len(problem.batches)
    steps = max(1, min(LOOKED_AT, num) - 1)
    wanted = {round(i * (num - 1) / steps) for i in range(steps + 1)}
    for place, batch in enumerate(problem.batches):
        if place in wanted:
            yield batch


def _cut(
    state: State, batch: Batch, one: Batch, two: Batch, known: list[tuple[Batch, Batch, Measured]]
) -> Measured | None:
    """The losses of a batch, which may be known, and of its parts; None where one fails."""
    with state.problem.evaluation() as e:
        whole = known[0][2].whole if known else _value(e, batch)
        first, second = _value(e, one), _value(e, two)
    if whole is None or first is None or second is None:
        return None
    parts = (first, one.content), (second, two.content)
    return Measured(whole, batch.content, parts, state.weakest, masked=False)


def _is_mean(state: State, batch: Batch, one: Batch, two: Batch, cut: Measured) -> bool:
    return _same_loss(state, batch, cut.whole, _expected(batch, one, two, cut))


def _expected(batch: Batch, one: Batch, two: Batch, cut: Measured) -> float:
    (first, _), (second, _) = cut.parts
    return (one.count * first + two.count * second) / batch.count


def _examples_lie_on_axis_1(state: State, batch: Batch, whole: float) -> bool:
    """Whether the loss is a mean over cuts along the second axis: sequences with time first."""
    tensors = tensors_in(batch.content)
    if any(tensor.is_nested or tensor.layout != torch.strided for tensor in tensors):
        return False
    sizes = {tensor.shape[1] if tensor.ndim > 1 else -1 for tensor in tensors}
    if len(sizes) != 1 or min(sizes) < 2:
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
    return True


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
    state: State, batch: Batch, known: list[tuple[Batch, Batch, Measured]]
) -> Finding | None:
    """Tried out in this order: a module that couples examples, a sum, another count."""
    one, two, cut = known[-1]
    mean = _expected(batch, one, two, cut)
    of_parts = (
        "one of its two parts has none"
        if math.isnan(mean)
        else (f"its two parts average to {mean:.6g}")
    )
    numbers = f"batch {batch.index} has loss {cut.whole:.6g}, {of_parts}"
    module = coupling_module(state, batch, one)
    if module is not None:
        return _couples(state, module, numbers)
    total = sum(loss for loss, _ in cut.parts)
    if close(cut.whole, total, state.tolerance):
        return Finding(
            "sum_reduction",
            f"{numbers} and add up to {total:.6g}: the loss is a sum over the batch.",
            "use reduction='mean'; hesscope weighs batches by their count itself.",
        )
    rules = _what_it_divides_by(state, batch, [cut for _, _, cut in known])
    if rules:
        return _divides_otherwise(state, batch, rules[0], numbers)
    return _coupled(
        state,
        "not_a_mean",
        f"{numbers}: the loss does not average over what `count` counts. Either it divides by "
        "something else (masked tokens, class weights), or it couples the examples of a batch.",
        "pass `count` with what the loss divides by, for class weights "
        "count=lambda y: weight[y].sum(); for a loss that couples examples (contrastive), count=1 "
        "makes each batch one item.",
    )


def _what_it_divides_by(state: State, batch: Batch, cuts: list[Measured]) -> list[Rule]:
    """The counts under which the loss is a mean on all cuts, also where targets are masked."""
    counted, options = state.problem.counted, options_of(state.problem.loss_fn)
    cuts = cuts + [m for m in _measured(state, batch) if m.masked]
    ignored = options.get("ignore_index", IGNORED)
    rules = all_rules_for(counted, batch.content, options.get("weight"), ignored)
    return fitting(rules, counted, cuts)


def _couples(state: State, call: Call, numbers: str) -> Finding | None:
    """The finding that a module mixes the examples of a batch."""
    kind, module = type(call.module).__name__, call.module
    if "Norm" not in kind and not hasattr(module, "running_mean"):
        return _coupled(
            state,
            "not_a_mean",
            f"{numbers}: what {call.name} ({kind}) makes of an example depends on its neighbours "
            "in the batch, although what it is given does not.",
            "count=1 makes each batch one item, if the loss is meant to couple examples.",
        )
    if getattr(module, "running_mean", None) is None:
        cure = (
            "give it running statistics (track_running_stats=True), or use GroupNorm or LayerNorm."
        )
    elif state.problem.training:
        cure = "measure in evaluation mode with running statistics: leave out training=True."
    else:
        cure = (
            "hesscope's evaluation mode does not reach it: call .eval() on it, if it stands "
            "outside the model, or let train() and .eval() of the model do so."
        )
    return Finding(
        "batch_statistics",
        f"{numbers}: {call.name} ({kind}) normalises with the statistics of the batch, so the loss "
        "of an example depends on its neighbours.",
        cure,
    )


def _divides_otherwise(state: State, batch: Batch, rule: Rule, numbers: str) -> Finding | None:
    counted, cause = state.problem.counted, "the loss does not average over what `count` counts"
    name = "not_a_mean"
    if rule.weighs:
        name, cause = (
            "class_weights",
            "the loss has class weights and divides by the sum of them, not by the number of "
            "targets",
        )
    elif str(IGNORED) in rule.code and holds_ignored(counted.of(batch.content)):
        name = "ignored_targets"
        cause = "targets of -100 are ignored by the loss but counted as items"
    cause = f"{numbers}: {cause}. With the count given below they agree."
    if name == "ignored_targets":
        return Finding(name, cause, _count_as(counted, rule))
    return _coupled(state, name, cause, _count_as(counted, rule))


def _coupled(state: State, name: str, cause: str, cure: str) -> Finding | None:
    """A loss that is right for the whole batch only: a fault when there are several batches."""
    if len(state.problem.batches) > 1:
        return Finding(name, cause, cure)
    state.note(name, cause, cure)
    return None


def _two_parts(problem: Problem, batch: Batch, *, all_cuts: bool) -> Iterator[tuple[Batch, Batch]]:
    """A few uneven cuts of a batch, or one, into two parts that both count something."""
    try:
        size = num_examples(batch.content)
    except ValueError:  # the examples of a batch cannot be told apart
        return
    cuts = {1, size // 3, size - 1} if all_cuts else {max(1, size // 3)}
    for cut in sorted(cuts & set(range(1, size))):
        contents = take(batch.content, slice(0, cut)), take(batch.content, slice(cut, size))
        counts = [float(problem.batches.count_of(content)) for content in contents]
        adds_up = abs(sum(counts) - batch.count) <= 1e-5 * batch.count  # else it is one item
        if min(counts) > 0 and adds_up:
            one, two = (
                Batch(batch.index, content, count)
                for content, count in zip(contents, counts, strict=True)
            )
            yield one, two


def _same_loss(state: State, batch: Batch, a: float, b: float) -> bool:
    """Whether two values of one loss agree up to the rounding of its forward pass.

    Rounding acts like a relative change of the parameters, so two values also agree when such a
    change moves the loss as far: a loss of 1e-33 = (1e-16)² has no correct digit.
    """
    if close(a, b, state.usual_tolerance) or close(a, b, state.tolerance):
        return True
    problem = state.problem
    moved = problem.at(problem.theta + state.tolerance * direction(problem, seed=8))
    with moved.evaluation() as e:
        value = _value(e, batch)
    return value is not None and abs(a - b) <= 10 * abs(value - a)

"""What is inferred of a model that computes its own loss: its outputs, and what that averages over.

Each inference is a measurement on a few batches, and is told in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hesscope import rounding
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.items import MOST_BATCHES, fitting, measured, telling
from hesscope.problem.own_loss import SWITCHES, arguments, has_training_step
from hesscope.problem.own_outputs import Form, form_of_loss
from hesscope.problem.rules import EXAMPLES, WHOLE_BATCH, Rule, rules_for
from hesscope.system import collectives

if TYPE_CHECKING:
    from hesscope.problem.problem import Problem

LOOKED_AT = 8  # batches among which those are chosen that tell most


@dataclass(frozen=True)
class Inferred:
    """What was found; `count` is None where the user gave it."""

    form: Form | None
    count: Callable[[Any], float] | None
    notes: tuple[str, ...]


def inferred(problem: Problem, e: Evaluation, *, counts_too: bool) -> Inferred:
    """What a model with its own loss averages over, and which loss of its outputs it is.

    `e` predicts all that the model gives. Costs two to four gradients of a batch.

    Raises:
        ValueError: if the model does not run on the first batch, or if there are several batches
            whose items nobody can tell.
    """
    several = collectives.sum_of_number(len(problem.batches)) > 1
    batches = _with_losses(e, telling(list(islice(problem.batches, LOOKED_AT))))
    form = form_of_loss(e, batches)
    notes = [_of_loss(e.model, batches[0].content), _of_outputs(form, len(batches))]
    if not counts_too:
        return Inferred(form, None, tuple(notes))
    if form is not None:
        notes.append(f"items: {form.items}")
        return Inferred(form, lambda content: form.count(problem.model, content), tuple(notes))
    rule = _rule(problem, e, batches, several=several)
    notes.append("items: batches" if rule is None else f"items: {rule.words}, as measured")
    return Inferred(None, None if rule is None else rule.count, tuple(notes))


def _with_losses(e: Evaluation, batches: list[Batch]) -> list[Batch]:
    """The first few that have a finite loss: one whose labels are all ignored has none.

    Raises:
        ValueError: if the model does not run on them.
        NonFiniteLossError: if none has.
    """
    finite = (batch for batch in batches if bool(e.loss(batch).isfinite()))
    found = list(islice(finite, MOST_BATCHES))
    if not found:
        e.finite_loss(batches[0])
    return found


def _rule(problem: Problem, e: Evaluation, batches: list[Batch], *, several: bool) -> Rule | None:
    """The rule that measurement finds; None where there is one batch, whose count is no matter.

    Raises:
        ValueError: if there are several batches and no rule, or rules that do not agree.
    """
    rules = rules_for(WHOLE_BATCH, batches[0].content)
    losses = measured(e, batches)
    fit = fitting(rules, WHOLE_BATCH, losses)
    alone = collectives.num_processes() == 1  # others may have measured otherwise
    if fit and alone and _agree(problem, fit):
        return fit[-1] if EXAMPLES in fit else fit[0]
    if not several:
        return None
    why = "cannot be cut into parts to measure it"
    if not alone:
        why = "is measured by each process for itself, and they have to count alike"
    elif fit:
        why = f"is a mean over any of: {'; '.join(rule.words for rule in fit)}, as far as measured"
    elif random := _draws(e, batches[0]):
        why = random
    elif losses:
        why = f"is no mean over any of: {'; '.join(rule.words for rule in rules)}"
    msg = (
        f"{type(problem.model).__name__} computes its own loss, and there are "
        "several batches to be weighed by what it averages over, but the loss of "
        f"a batch {why}. Say what it divides by: count=lambda batch: ..., such as "
        'count=lambda batch: (batch["labels"] != -100).sum(); or count=1 if a batch is one item '
        "that cannot be cut, such as that of a contrastive loss."
    )
    raise ValueError(msg)


def _draws(e: Evaluation, batch: Batch) -> str:
    """That a loss is random, in words; nothing where it is not."""
    one, other = (float(e.loss(batch, seed=seed).detach()) for seed in (1, 2))
    if abs(one - other) <= rounding.half_the_digits(torch.float32) * max(abs(one), abs(other)):
        return ""
    return (
        f"is another one under each random seed ({one:.6g}, {other:.6g}): the model draws random "
        "numbers in evaluation mode, such as masks or noise (hand them over with the batch, if it "
        "takes them), so that nothing can be measured"
    )


def _agree(problem: Problem, rules: list[Rule]) -> bool:
    """Whether the rules weigh all batches alike, so that it is no matter which one is right."""
    if len(rules) == 1 or len(problem.batches) == 1:
        return True
    ratios = set()
    for batch in problem.batches:
        counts = [rule.count(batch.content) for rule in rules]
        ratios.add(tuple(round(count / max(counts[0], 1.0), 9) for count in counts))
    return len(ratios) == 1


def _of_loss(model: nn.Module, content: Any) -> str:
    if has_training_step(model):
        return "loss: what training_step gives"
    if not isinstance(content, Mapping):
        return "loss: the model's own"
    given = arguments(model, content)
    new = [f"{name}={given[name]}" for name in SWITCHES if name in given and name not in content]
    new += [f"{name} as labels" for name in content if "labels" in given and name not in given
            and given["labels"] is content[name]]  # fmt: skip
    kept = [name for name in content if name in given]
    left = [name for name in content if name not in given and f"{name} as labels" not in new]
    out = f"; left out {', '.join(left)}" if left else ""
    return f"loss: the model's own, of {', '.join([*kept, *new])}{out}"


def _of_outputs(form: Form | None, num: int) -> str:
    if form is None:
        return (
            "outputs: unknown, for the loss is no usual one of .logits and labels; operators that "
            "need them (GaussNewton, Fisher) need hs.Problem(model, loss_fn, data)"
        )
    return f"outputs: the loss is {form.words}, on {num} batches to rounding"

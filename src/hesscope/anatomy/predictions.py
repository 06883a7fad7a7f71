"""What the outputs of a network do over the data: do they follow the inputs, are they right?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hesscope import rounding
from hesscope.anatomy.sample import Sample
from hesscope.results.sanity import Predictions

SUMS = 1e-3  # from one, within which outputs are probabilities
# At most, that logits of the same mean and spread all lie between 0 and 1. Of 463 sets of normal
# logits around 1/2 that did, one was taken for probabilities; of 500 of a sigmoid, all.
CHANCE = 0.1


def predictions(sample: Sample, loss_fn: Callable[[Any, Any], Tensor]) -> Predictions:
    """Size and spread of the outputs of a sample, and the share of labels that are right.

    A softmax does not see what all logits have in common, so that is taken out of them. The spread
    over the examples is that of whole outputs (for sequences with labels, of each place).

    >>> import torch
    >>> same = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    >>> seen = Sample(torch.arange(4), None, same, torch.tensor([0, 0, 0, 1]))
    >>> found = predictions(seen, torch.nn.functional.cross_entropy)
    >>> found.spread, found.accuracy, found.guessing
    (0.0, 0.75, 0.75)
    """
    labelled = with_labels(sample.outputs, sample.targets)
    if labelled is None:
        rows, labels = sample.outputs.double().reshape(len(sample.outputs), -1), None
    else:
        rows, labels = labelled
        probabilities = _are_probabilities(rows) and _taken_for_logits(
            sample, rows, labels, loss_fn
        )
        rows = rows - rows.mean(1, keepdim=True)
    right = commonest = math.nan
    if labels is not None and len(labels):
        right = float((rows.argmax(1) == labels).double().mean())
        commonest = float(labels.bincount().max()) / len(labels)
    return Predictions(
        num_examples=len(sample.outputs),
        size=_rms(rows),
        spread=_rms(rows - rows.mean(0)),
        target_spread=_target_spread(sample),
        accuracy=right,
        guessing=commonest,
        probabilities=labels is not None and probabilities,
    )


def with_labels(outputs: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """(rows, classes) in float64 and (rows,) labels, those below zero left out; None without."""
    if targets is None or targets.is_floating_point() or targets.dtype == torch.bool:
        return None
    if outputs.ndim >= 2 and outputs.shape[:-1] == targets.shape:
        classes_last = outputs
    elif outputs.ndim >= 3 and (*outputs.shape[:1], *outputs.shape[2:]) == targets.shape:
        classes_last = outputs.movedim(1, -1)
    else:
        return None
    rows, labels = classes_last.flatten(0, -2).double(), targets.flatten().long()
    inside = (labels >= 0) & (labels < rows.shape[1])
    return (rows[inside], labels[inside]) if rows.shape[1] > 1 and bool(inside.any()) else None


def _are_probabilities(rows: Tensor) -> bool:
    """Whether they sum to one, or lie between 0 and 1 and it would be odd if they did by chance.

    The latter of normal logits with the mean and the spread of each class: logits that hardly vary
    may lie there because of their biases, as those of a recurrent network at its start.
    """
    if bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < SUMS).all()):
        return True
    if len(rows) < 2 or not bool(((rows > 0) & (rows < 1)).all()):
        return False
    classes = torch.distributions.Normal(rows.mean(0), rows.std(0).clamp_min(rounding.POSITIVE))
    one, zero = torch.ones_like(classes.mean), torch.zeros_like(classes.mean)
    inside = classes.cdf(one) - classes.cdf(zero)
    return len(rows) * float(inside.log().sum()) < math.log(CHANCE)


def _taken_for_logits(
    sample: Sample, rows: Tensor, labels: Tensor, loss_fn: Callable[[Any, Any], Tensor]
) -> bool:
    """Whether the user's loss of them is the cross-entropy that makes a softmax of its own."""
    own = float(loss_fn(sample.outputs, sample.targets))
    return math.isclose(own, float(F.cross_entropy(rows, labels)), rel_tol=1e-4)


def _target_spread(sample: Sample) -> float:
    targets = sample.targets
    if targets is None or not targets.is_floating_point():
        return math.nan
    if targets.numel() != sample.outputs.numel():
        return math.nan
    rows = targets.double().reshape(len(targets), -1)
    return _rms(rows - rows.mean(0))


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())

"""What the data looks like to model and loss: its scale, and whether the answer is in the input."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hesscope.anatomy.sample import Sample
from hesscope.results.sanity import DataSummary

TELLS = 0.99  # of a target's variance: a feature that is the target, or a function of it
FEWEST = 20  # examples from which on a feature can be said to tell
MEMBERS = 5  # of a class; a pixel that is lit once tells a class of one


def data_summary(sample: Sample, model: nn.Module, *, shifts: bool = False) -> DataSummary:
    """Scale and variety of inputs and targets, and the feature that tells most of the target.

    Of labels a feature tells the share of its variance that lies between the classes; of a single
    number, their squared correlation. `shifts` says that the model shifts targets itself, so that
    tokens that stand in the same place of inputs and targets mean nothing.

    >>> import torch
    >>> y = torch.arange(40) % 2
    >>> x = torch.stack([torch.sin(torch.arange(40.0)), 3.0 * y], 1)
    >>> found = data_summary(Sample(torch.arange(40), x, x, y), torch.nn.Linear(2, 2))
    >>> found.telling, found.telling_feature, found.told
    (1, 1, 1.0)
    """
    X, y = flat_inputs(sample), sample.targets
    same = y is not None and len(y) > 1 and _all_alike(y)
    told = torch.zeros(0) if X is None or same else _told(X, y)
    best = int(told.argmax()) if len(told) else -1
    return DataSummary(
        num_examples=len(sample.outputs),
        features=0 if X is None else X.shape[1],
        size=math.nan if X is None else float(X.square().mean().sqrt()),
        off_centre=math.nan if X is None else _off_centre(X),
        same_inputs=sample.inputs is not None
        and len(sample.inputs) > 1
        and _all_alike(sample.inputs),
        same_targets=same,
        target=_size(y) if same and y is not None else math.nan,
        labels=y is not None and not y.is_floating_point(),
        telling=int((told >= TELLS).sum()),
        telling_feature=best,
        told=float(told[best]) if best >= 0 else math.nan,
        copied=math.nan if shifts else _copied(sample),
        normalised=any("norm" in type(module).__name__.lower() for module in model.modules()),
    )


def flat_inputs(sample: Sample) -> Tensor | None:
    """(m, d) in float64, where inputs are floating tensors of some features."""
    x = sample.inputs
    if x is None or not x.is_floating_point() or x.ndim < 2 or not x[0].numel():
        return None
    return x.flatten(1).double()


def example_labels(targets: Tensor | None) -> Tensor | None:
    """(m,) labels of whole examples: whole numbers, or zeros and ones; None where there are none.

    >>> example_labels(torch.tensor([[0.0], [1.0], [1.0]]))
    tensor([0, 1, 1])
    """
    if targets is None or targets.numel() != len(targets):
        return None
    y = targets.flatten()
    if y.is_floating_point() and not bool(((y == 0) | (y == 1)).all()):
        return None
    return y.long() if bool((y >= 0).all()) else None


def _told(X: Tensor, targets: Tensor | None) -> Tensor:
    """(d,) the share of the target that each feature tells; empty where that is not known."""
    y = example_labels(targets)
    if y is not None:
        many = (y[:, None] == y).sum(1) >= MEMBERS
        classes, at = y[many].unique(return_inverse=True)
        enough = len(at) >= FEWEST and len(classes) > 1
        return _between(X[many], at, len(classes)) if enough else torch.zeros(0)
    if targets is None or not targets.is_floating_point() or targets.numel() != len(X):
        return torch.zeros(0)
    if len(X) < FEWEST:
        return torch.zeros(0)
    t = targets.double().flatten()
    t, centred = t - t.mean(), X - X.mean(0)
    norms = centred.square().sum(0) * t.square().sum()
    return torch.where(norms > 0, (centred.T @ t).square() / norms, 0.0).nan_to_num()


def _between(X: Tensor, at: Tensor, num: int) -> Tensor:
    """(d,) the share of each feature's variance that lies between the classes."""
    centred = X - X.mean(0)
    sums = torch.zeros(num, X.shape[1], dtype=X.dtype).index_add_(0, at, centred)
    between = (sums.square() / at.bincount(minlength=num)[:, None]).sum(0)
    total = centred.square().sum(0)
    return torch.where(total > 0, between / total, 0.0).nan_to_num()


def _off_centre(X: Tensor) -> float:
    deviation = X.std(0, correction=0)
    moving = deviation > 0
    return float((X.mean(0).abs() / deviation)[moving].median()) if bool(moving.any()) else math.nan


def _all_alike(rows: Tensor) -> bool:
    return bool((rows == rows[:1]).all())


def _size(values: Tensor) -> float:
    return float(values.double().abs().max())


def _copied(sample: Sample) -> float:
    """Of the target tokens; NaN where inputs and targets are no tokens of one shape."""
    x, y = sample.inputs, sample.targets
    if x is None or y is None or x.shape != y.shape or x.is_floating_point() or x.ndim < 2:
        return math.nan
    inside = y >= 0
    return float((x == y)[inside].double().mean()) if bool(inside.any()) else math.nan

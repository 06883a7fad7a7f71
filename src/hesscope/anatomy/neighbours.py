"""Do examples bear the labels of their neighbours? What does not may be labelled wrong."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesscope.anatomy.data_summary import example_labels, flat_inputs
from hesscope.anatomy.sample import Sample
from hesscope.results.sanity import Neighbours

NEAREST = 20
AGREE = 0.6  # of them, at least
CHANCE = 0.01  # that so many agree where labels are drawn at random
FEWEST = 100  # examples: fewer have no twenty neighbours that are near


def neighbours(sample: Sample) -> Neighbours | None:
    """Which examples' neighbours agree on a label, and which of these bear another one.

    Neighbours are the twenty nearest in plain distance of standardised inputs. They agree where 60
    % and more bear one label, and labels drawn at random by their frequencies would do so with a
    probability below 1 %. No network is asked, so it does not matter what one has memorised. None
    where inputs are no floating tensors, examples have no label each, or they are fewer than 100.

    >>> x = torch.cat([torch.zeros(60, 1), torch.ones(60, 1)])
    >>> y = (torch.arange(120) >= 60).long()
    >>> y[3] = 1
    >>> neighbours(Sample(torch.arange(120), x, x, y)).contradicted
    (3,)
    """
    X, y = flat_inputs(sample), example_labels(sample.targets)
    if X is None or y is None or len(X) < FEWEST:
        return None
    classes, y = y.unique(return_inverse=True)
    if len(classes) < 2:
        return None
    deviation = X.std(0, correction=0)
    X = (X - X.mean(0)) / torch.where(deviation > 0, deviation, 1.0)
    distances = torch.cdist(X, X)
    distances.fill_diagonal_(math.inf)
    nearest = y[distances.topk(NEAREST, largest=False).indices]
    counts = torch.nn.functional.one_hot(nearest, len(classes)).sum(1)
    most, label = counts.max(1)
    agreed = most >= _needed(y.bincount() / len(y))[label]
    contradicted = agreed & (label != y)
    return Neighbours(len(X), int(agreed.sum()), tuple(sample.places[contradicted].tolist()))


def _needed(frequencies: Tensor) -> Tensor:
    """(classes,) how many of the neighbours must bear a label, to agree on it beyond chance."""
    least = math.ceil(AGREE * NEAREST)
    return torch.tensor([max(least, _quantile(float(p))) for p in frequencies])


def _quantile(p: float) -> int:
    """The smallest count that has a chance below `CHANCE` to be reached by luck."""
    tail, count = 0.0, NEAREST + 1
    while count > 0:
        tail += math.comb(NEAREST, count - 1) * p ** (count - 1) * (1 - p) ** (NEAREST - count + 1)
        if tail >= CHANCE:
            break
        count -= 1
    return count

"""BatchNorm in training mode that writes nothing down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def statistics_at_rest(model: nn.Module | None) -> Iterator[None]:
    """Layers in training mode normalise by the batch and write nothing down.

    >>> import torch
    >>> norm = nn.BatchNorm1d(2)
    >>> with statistics_at_rest(norm):
    ...     _ = norm(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> norm.running_mean, norm.track_running_stats
    (tensor([0., 0.]), True)
    """
    modules = () if model is None else model.modules()
    kept = [m for m in modules if m.training and getattr(m, "track_running_stats", False)]
    for m in kept:
        vars(m)["track_running_stats"] = False
    try:
        yield
    finally:
        for m in kept:
            vars(m)["track_running_stats"] = True

"""Ensembles of small networks on blobs, trained and with all their eigenvalues."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from common.keeping import Arrays
from torch import Tensor

import hesscope as hs
from sagun import networks
from sagun.context import Context


def trained(
    c: Context,
    name: str,
    layers: tuple[int, ...],
    data: tuple[Tensor, Tensor],
    *,
    loss: str = "cross_entropy",
    num: int | None = None,
    steps: int | None = None,
) -> Arrays:
    """Networks from starts on the sphere, trained to the tolerance or the limit, with spectra.

    `start_eigenvalues` are those before training.
    """
    s, (X, y) = c.settings.blobs, data
    num = num or s.seeds
    lr, most = (s.mse_lr, s.mse_steps) if loss == "mse" else (s.lr, s.steps)
    steps = steps or most
    targets = networks.one_hot(y) if loss == "mse" else y

    def job() -> Arrays:
        start = networks.starts(layers, num, s.sigma)
        t = hs.ensemble.train(
            start, X, targets, loss=loss, lr=lr, steps=steps, tolerance=s.tolerance
        )
        found = networks.outcome(t, hs.ensemble.spectra(t.ensemble, X, targets, loss=loss))
        before = hs.ensemble.spectra(start, X, targets, loss=loss)
        return {**found, "start_eigenvalues": before}

    key = networks.short((layers, X, y, loss, num, s.sigma, lr, steps, s.tolerance))
    return c.run.arrays(name, key, job)


def continued(c: Context, name: str, layers: tuple[int, ...], found: Arrays, data: Any) -> Arrays:
    """The same networks after ten times the steps that the slowest of them took."""
    s, (X, y) = c.settings.blobs, data
    steps = 10 * int(found["steps"].max())
    e = replace(networks.starts(layers, 1, s.sigma), theta=found["theta"])
    key = networks.short((layers, X, y, found["theta"], s.lr, steps))
    return c.run.arrays(
        name, key, lambda: networks.outcome(hs.ensemble.train(e, X, y, lr=s.lr, steps=steps))
    )


def alive(found: Arrays) -> Arrays:
    """Without networks whose output does not depend on the input, or that diverged."""
    keep = ~found["dead"] & found["losses"].isfinite() & found["eigenvalues"].isfinite().all(1)
    return {name: array[keep] for name, array in found.items()}


def living(found: Arrays) -> str:
    """How many starts were dead."""
    num, dead = len(found["dead"]), int(found["dead"].sum())
    return f"{dead} of {num} starts dead, left out" if dead else "no dead start"


def first(found: Arrays) -> int:
    """The first network that is not dead."""
    return int(torch.nonzero(~found["dead"])[0])

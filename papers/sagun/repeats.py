"""The smallest network of figure 1 from several starts, before, along and after its training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from common.keeping import Arrays
from torch import Tensor

import hesscope as hs
from sagun import networks
from sagun.context import Context, name


@dataclass(frozen=True)
class Descent:
    """Exact spectra of one network at some steps, the last of them at the end of training."""

    steps: list[int]
    spectra: list[hs.Spectrum]
    end: Arrays

    @property
    def eigenvalues(self) -> Tensor:
        """(steps, n)."""
        return torch.stack([s.eigenvalues for s in self.spectra])


def descents(c: Context) -> list[Descent]:
    """One for every seed: the first at all snapshots, the others at the first and the last."""
    record = c.settings.digits.snapshots
    ends = (record[0], record[-1])
    return [
        descent(c, seed, record if seed == 0 else ends) for seed in range(c.settings.digits.seeds)
    ]


def descent(c: Context, seed: int, record: tuple[int, ...]) -> Descent:
    """Trains from one start; every eigenvalue at the recorded steps and at the end."""
    width = c.settings.widths[0]
    layers, folder = c.layers(width), name("digits", width, seed)
    key = (c.data, c.settings.digits, width, seed, record)
    path = c.run.arrays(f"{folder}/path", key, lambda: _path(c, layers, seed, record))
    spectra = []
    for i, step in enumerate(record):
        e = hs.ensemble.Ensemble(layers, "relu", path["theta"][[i]])
        place = f"{folder}/" + ("start" if step == 0 else f"step-{step}")
        spectra.append(c.spectrum(place, networks.problem(e, 0, c.X, c.y)))
    end, problem = c.digits(width, seed)
    spectra.append(c.spectrum(f"{folder}/spectrum", problem))
    return Descent([*record, int(end["steps"][0])], spectra, end)


def _path(c: Context, layers: tuple[int, ...], seed: int, record: tuple[int, ...]) -> Arrays:
    s = c.settings.digits
    start = networks.starts(layers, 1, s.sigma, seed)
    t = hs.ensemble.train(start, c.X, c.y, lr=s.lr, steps=max(record), record=record)
    return {"theta": torch.cat([t.snapshots[step].theta for step in record])}


def gathered(found: list[Descent]) -> Arrays:
    """What is kept of the ends of training, a row for each seed."""
    return networks.together(d.end for d in found)

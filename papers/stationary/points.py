"""The critical points that every part of the study looks at: searched once, and kept."""

from __future__ import annotations

import torch
from common.keeping import Arrays, Run
from torch import Tensor

from stationary import finder, spins
from stationary.networks import Setting, setting
from stationary.settings import Sizes


def found(run: Run, sizes: Sizes, name: str) -> Arrays:
    """Searches from points on paths of training and off them; `step`, `shift` and `seed` of each.

    `path` holds the points of the path, `loss_start` their losses; "spins" is the control.
    """
    s = sizes
    key = (name, s.seeds, s.steps, s.shifts, s.iterations, s.spins, _version(name))
    return run.arrays(f"points/{name}", key, lambda: _spins(s) if name == "spins" else _of(s, name))


def _version(name: str) -> str:
    return "" if name == "spins" else setting(name).words


def _spins(s: Sizes) -> Arrays:
    N, num = s.spins
    on, starts = spins.field(N), spins.starts(N, num)
    return finder.described(on, starts, finder.search(on, starts, s.iterations))


def _of(s: Sizes, name: str) -> Arrays:
    on = setting(name)
    path, step, seed = paths(on, s)
    starts = torch.cat([shifted(path, shift) for shift in s.shifts])
    times = len(s.shifts)
    found = finder.described(on.field, starts, finder.search(on.field, starts, s.iterations))
    return {
        **found,
        "step": step.repeat(times),
        "seed": seed.repeat(times),
        "shift": torch.tensor(s.shifts, dtype=torch.float64).repeat_interleave(len(path)),
        "loss_start": on.losses(starts),
        "gradient_start": on.gradients(starts).norm(dim=1),
    }


def paths(on: Setting, s: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """(points of the paths of gradient descent, their steps, their seeds)."""
    run = on.trained(on.starts(s.seeds), s.steps[-1], s.steps)
    points = torch.cat([run.snapshots[step].theta for step in s.steps])
    step = torch.tensor(s.steps).repeat_interleave(s.seeds)
    return points, step, torch.arange(s.seeds).repeat(len(s.steps))


def shifted(points: Tensor, shift: float) -> Tensor:
    """In a random direction by this share of |θ|."""
    if not shift:
        return points
    generator = torch.Generator().manual_seed(round(1000 * shift))
    z = torch.randn(points.shape, generator=generator, dtype=torch.float64)
    return points + shift * points.norm(dim=1, keepdim=True) * z / z.norm(dim=1, keepdim=True)


def descents(on: Setting, sizes: Sizes) -> Arrays:
    """Critical points at the ends of descents from random starts."""
    starts = finder.descend(on.field, on.starts(sizes.descents, seed=3), sizes.iterations)
    return finder.described(on.field, starts, finder.search(on.field, starts, sizes.iterations))


def sure(found: Arrays) -> Arrays:
    """Those whose index is certain and whose weights are not large, one of each kind.

    Units that saturate take descents to minima "at infinity", which are none.
    """
    small = found["theta"].square().mean(1).sqrt() <= finder.LARGE
    keep = (found["certain"] & small).nonzero().flatten()
    keep = keep[finder.distinct(found["loss"][keep], found["eigenvalues"][keep])]
    return {name: array[keep] for name, array in found.items()}

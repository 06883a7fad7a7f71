"""The networks of the paper: starts on a sphere, gradient descent, spectra."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from common.data import digest
from common.keeping import Arrays, Run, read_npz, write_npz
from torch import Tensor
from torch.nn import functional as F

import hesscope as hs
from sagun.settings import Digits

LOSSES = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}


def starts(layers: tuple[int, ...], num: int, sigma: float, seed: int = 0) -> hs.ensemble.Ensemble:
    """Points on the sphere |θ| = sigma √n."""
    radius = sigma * math.sqrt(num_parameters(layers))
    return hs.ensemble.initialise(layers, num, seed=seed, radius=radius)


def num_parameters(layers: tuple[int, ...]) -> int:
    """Σ out (in + 1) over the layers."""
    return sum(out * (width + 1) for width, out in pairwise(layers))


def problem(
    e: hs.ensemble.Ensemble, i: int, X: Tensor, y: Tensor, loss: str = "cross_entropy"
) -> hs.Problem:
    """Network i of an ensemble with its data."""
    return hs.Problem(e.member(i), LOSSES[loss], (X, y))


def one_hot(labels: Tensor) -> Tensor:
    """The targets of the mean-square loss."""
    return F.one_hot(labels).double()


def outcome(t: hs.ensemble.Trained, eigenvalues: Tensor | None = None) -> Arrays:
    """What is kept of trained networks."""
    found = {
        "theta": t.ensemble.theta,
        "losses": t.losses,
        "gradient_norms": t.gradient_norms,
        "steps": t.steps,
        "dead": t.dead,
    }
    return found if eigenvalues is None else {**found, "eigenvalues": eigenvalues}


def together(found: Iterable[Arrays]) -> Arrays:
    """The rows of several results, one below the other."""
    parts = list(found)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def trained_digits(
    run: Run, name: str, layers: tuple[int, ...], X: Tensor, y: Tensor, s: Digits
) -> Arrays:
    """One network after gradient descent, in stages that a killed run resumes from."""
    key = (layers, X, y, s.sigma, s.lr, s.steps, s.stage, s.tolerance, s.seed)
    checkpoint = run.scratch(name) / f"{s.seed}-{s.lr}.npz"
    found = run.arrays(name, short(key), lambda: _descend(checkpoint, layers, X, y, s))
    checkpoint.unlink(missing_ok=True)
    return found


def _descend(checkpoint: Path, layers: tuple[int, ...], X: Tensor, y: Tensor, s: Digits) -> Arrays:
    start = starts(layers, 1, s.sigma, s.seed)
    done, state = 0, {"theta": start.theta, "done": torch.tensor(0)}
    if checkpoint.exists():
        state = read_npz(checkpoint)
    done, e = int(state["done"]), replace(start, theta=state["theta"])
    while True:
        steps = min(s.stage, s.steps - done)
        t = hs.ensemble.train(e, X, y, lr=s.lr, steps=steps, tolerance=s.tolerance)
        e, done = t.ensemble, done + int(t.steps[0])
        if float(t.gradient_norms[0]) < s.tolerance or done >= s.steps:
            return {**outcome(t), "steps": torch.tensor([done])}
        write_npz(checkpoint, {"theta": e.theta, "done": torch.tensor(done)})


def short(key: tuple[object, ...]) -> str:
    """A key with digests in the place of data."""
    return repr(tuple(digest(x) if isinstance(x, Tensor) else x for x in key))


def gradient_rounding(theta: Tensor, eigenvalues: Tensor) -> Tensor:
    """About what rounding makes of a zero gradient, eps (1 + |θ| ‖H‖), for each network."""
    size = eigenvalues.abs().amax(-1)
    return torch.finfo(torch.float64).eps * (1 + theta.norm(dim=-1) * size)


def as_spectrum(eigenvalues: Tensor) -> hs.Spectrum:
    """Eigenvalues of an ensemble's member, with the error stated by `hs.ensemble.spectra`."""
    error = (
        torch.finfo(torch.float64).eps * len(eigenvalues) ** 0.5 * float(eigenvalues.abs().max())
    )
    return hs.Spectrum(eigenvalues, error, 0)


def near_zero(eigenvalues: Tensor, tau: float, *, relative: bool) -> Tensor:
    """How many of each row lie within tau, or within tau of the row's largest |λ|."""
    scale = eigenvalues.abs().amax(-1, keepdim=True) if relative else 1.0
    return (eigenvalues.abs() <= tau * scale).sum(-1)


def isolated(eigenvalues: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The count of `hs.outliers` of each row, and whether it calls it clear."""
    found = [hs.outliers(row, classes) for row in eigenvalues]
    return torch.tensor([o.count for o in found]), torch.tensor([o.clear for o in found])

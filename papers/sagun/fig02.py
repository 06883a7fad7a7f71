"""Figure 2: digits beside random inputs, before and after training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from common import style
from common.data import digest
from common.keeping import Arrays
from matplotlib.figure import Figure
from torch import Tensor

import hesscope as hs
from sagun import claims, networks, simple
from sagun.context import Context, finished, name
from sagun.settings import Digits

TITLE = "Digits and random inputs, before and after training"


@dataclass(frozen=True)
class Side:
    """One kind of inputs: the first network's exact spectra, and λ1 of all."""

    before: hs.Spectrum
    after: hs.Spectrum
    tops: Tensor  # (2, seeds): before and after training
    ends: Arrays


def measure(c: Context) -> dict[str, Any]:
    """Digits and random inputs, before and after training from the same starts."""
    s = c.settings.digits
    return {
        "digits": _side(c, "digits", c.X, c.y, s),
        "random inputs": _side(c, "random", *c.noise, s.gentle(s.random_lr)),
        "settings": s,
    }


def _side(c: Context, kind: str, X: Tensor, y: Tensor, s: Digits) -> Side:
    width, seeds = c.settings.widths[0], range(s.seeds)
    layers = c.layers(width)
    starts = [networks.starts(layers, 1, s.sigma, seed) for seed in seeds]
    before = [networks.problem(start, 0, X, y) for start in starts]
    places = [name(kind, width, seed) for seed in seeds]
    ends, after = zip(
        *(c.trained(places[i], layers, X, y, replace(s, seed=i)) for i in seeds), strict=True
    )
    key = tuple(digest(problem.theta) for problem in (*before, *after))
    tops = c.run.arrays(
        f"fig02/{kind}", key, lambda: {"tops": _largest([*before, *after]).view(2, -1)}
    )["tops"]
    return Side(
        before=c.spectrum(f"{places[0]}/start", before[0]),
        after=c.spectrum(f"{places[0]}/spectrum", after[0]),
        tops=tops,
        ends=networks.together(ends),
    )


def _largest(problems: list[hs.Problem]) -> Tensor:
    """λ1 of each by Lanczos, with a residual of 1e-4 of it."""
    pairs = [hs.eigsh(hs.Hessian(problem), k=1, tol=1e-4) for problem in problems]
    return torch.stack([p.eigenvalues[0] for p in pairs])


def draw(m: dict[str, Any]) -> Figure:
    """Two rows, before and after; two columns, digits and random inputs."""
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    spectra = {
        f"{kind}, {when} training": getattr(m[kind], when)
        for when in ("before", "after")
        for kind in KINDS
    }
    tau = 1e-6 * max(float(s.eigenvalues.abs().max()) for s in spectra.values())
    for ax, (title, spectrum) in zip(axes.flat, spectra.items(), strict=True):
        hs.plots.spectrum_histogram(spectrum, tau=tau, ax=ax)
        top = float(spectrum.eigenvalues[-1])
        ax.set_title(f"{title}: λmax = {top:.3g}", fontsize=10)
    ends = torch.cat([s.eigenvalues[[0, -1]] for s in spectra.values()])
    for ax in axes.flat:
        style.decades(ax, tau, 2 * float(ends.min()), 2 * float(ends.max()))
    for ax in axes[0]:
        ax.set_xlabel("")
    return figure


def caption(m: dict[str, Any]) -> str:
    """Conditions and outcome of training."""
    s, noise = m["settings"], m["random inputs"].ends
    tolerance, digits = s.tolerance, m["digits"].ends
    return (
        "Random inputs are Gaussian with the mean and the variance of all pixels, their labels "
        f"uniform. Digits, lr = {s.lr:g}: {finished(digits, tolerance)}, loss "
        f"{claims.spread(digits['losses'])}, {simple.living(digits)}. Random inputs, lr = "
        f"{s.random_lr:g} (2/lr = {2 / s.random_lr:g}): {finished(noise, tolerance)}, loss "
        f"{claims.spread(noise['losses'])}, gradient norm "
        f"{claims.spread(noise['gradient_norms'])}, {simple.living(noise)}. The pictures show the "
        "first start."
    )


def check(m: dict[str, Any]) -> list[claims.Claim]:
    """The largest eigenvalue from many starts, before and after training."""
    return [
        claims.data_matter(
            KINDS,
            [m[kind].tops[i] for kind in KINDS],
            f"{when} training, {m['settings'].seeds} starts",
        )
        for i, when in enumerate(("before", "after"))
    ]


KINDS = ["digits", "random inputs"]

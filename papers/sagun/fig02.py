"""Figure 2: digits beside random inputs, before and after training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import hesscope as hs
from sagun import claims, networks, style
from sagun.context import Context, finished, name
from sagun.data import digest, like
from sagun.settings import Digits

TITLE = "Digits and random inputs, before and after training"


def measure(c: Context) -> dict[str, Any]:
    """Four exact spectra of one width, and the largest eigenvalue from ten starts."""
    s, width = c.settings.digits, c.settings.widths[0]
    layers = c.layers(width)
    R, labels = like(c.X, seed=1)
    start = networks.starts(layers, s.starts, s.sigma, s.seed)
    trained, problem = c.digits(width)
    gentle = replace(s, lr=s.random_lr, steps=s.less_steps)
    noisy, noisy_problem = c.trained(f"random-{width}", layers, R, labels, gentle)
    problems = {
        "digits, before training": networks.problem(start, 0, c.X, c.y),
        "random inputs, before training": networks.problem(start, 0, R, labels),
        "digits, after training": problem,
        "random inputs, after training": noisy_problem,
    }
    names = [f"digits-{width}/start", f"random-{width}/start"]
    names += [f"digits-{width}/spectrum", f"random-{width}/spectrum"]
    spectra = {
        title: c.spectrum(place, problem)
        for (title, problem), place in zip(problems.items(), names, strict=True)
    }
    tops = c.run.arrays(
        "fig02/tops", (c.data, s, width), lambda: _tops(start, (c.X, c.y), (R, labels))
    )
    return {
        "spectra": spectra, "digits": trained, "random": noisy, "tops": tops, "settings": s,
        "after": _after(c, R, labels, gentle),
    }  # fmt: skip


def _after(c: Context, R: Tensor, labels: Tensor, gentle: Digits) -> list[Tensor]:
    """λ1 at the end of training on digits and on random inputs, a number for each seed."""
    width, seeds = c.settings.widths[0], range(gentle.seeds)
    runs = [
        [c.digits(width, seed) for seed in seeds],
        [
            c.trained(
                name("random", width, seed), c.layers(width), R, labels, replace(gentle, seed=seed)
            )
            for seed in seeds
        ],
    ]
    found = []
    for kind, run in zip(("digits", "random"), runs, strict=True):
        problems = [problem for _, problem in run]
        key = tuple(digest(problem.theta) for problem in problems)
        tops = c.run.arrays(
            f"fig02/{kind}-after", key, lambda problems=problems: {"tops": _largest(problems)}
        )
        found.append(tops["tops"])
    return found


def _tops(start: hs.ensemble.Ensemble, *data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """λ1 at every start, (data, starts)."""
    problems = [networks.problem(start, i, X, y) for X, y in data for i in range(len(start))]
    return {"tops": _largest(problems).view(len(data), -1)}


def _largest(problems: list[hs.Problem]) -> Tensor:
    """λ1 of each by Lanczos, with a residual of 1e-4 of it."""
    pairs = [hs.eigsh(hs.Hessian(problem), k=1, tol=1e-4) for problem in problems]
    return torch.stack([p.eigenvalues[0] for p in pairs])


def draw(m: dict[str, Any]) -> Figure:
    """Two rows, before and after; two columns, digits and random inputs."""
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    spectra = m["spectra"]
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
    tolerance = m["settings"].tolerance
    return (
        "Random inputs are Gaussian with the mean and the variance of all pixels, their labels "
        f"uniform. Digits: loss {float(m['digits']['losses'][0]):.2g}, "
        f"{finished(m['digits'], tolerance)}. Random inputs, lr = "
        f"{m['settings'].random_lr:g} (2/lr = {2 / m['settings'].random_lr:g}): loss "
        f"{float(m['random']['losses'][0]):.2g}, {finished(m['random'], tolerance)}."
    )


def check(m: dict[str, Any]) -> list[claims.Claim]:
    """The largest eigenvalue at many starts, before and after training."""
    digits, noise = m["tops"]["tops"]
    after = m["after"]
    return [
        claims.data_matter(NAMES, [digits, noise], f"before training, {len(digits)} starts"),
        claims.data_matter(NAMES, after, f"after training, {len(after[0])} starts"),
    ]


NAMES = ["digits", "random inputs"]

"""Figure 2: digits beside random inputs, before and after training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import hesscope as hs
from sagun import claims, networks, style
from sagun.context import Context, finished
from sagun.data import like

TITLE = "Digits and random inputs, before and after training"


def measure(c: Context) -> dict[str, Any]:
    """Four exact spectra of one width, and the largest eigenvalue at ten more starts."""
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
        title: c.spectrum(name, problem)
        for (title, problem), name in zip(problems.items(), names, strict=True)
    }
    tops = c.run.arrays(
        "fig02/tops", (c.data, s, width), lambda: _tops(start, (c.X, c.y), (R, labels))
    )
    return {"spectra": spectra, "digits": trained, "random": noisy, "tops": tops, "settings": s}


def _tops(start: hs.ensemble.Ensemble, *data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """λ1 with its residual, by Lanczos, at every start."""
    found = []
    for X, y in data:
        for i in range(len(start)):
            pairs = hs.eigsh(hs.Hessian(networks.problem(start, i, X, y)), k=1, tol=1e-4)
            found.append(pairs.eigenvalues[0])
    return {"tops": torch.stack(found).view(len(data), -1)}


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
    """The largest eigenvalue at many starts, and after one training run."""
    digits, noise = m["tops"]["tops"]
    spectra = m["spectra"]
    after = [spectra[f"{name}, after training"].eigenvalues[-1:] for name in NAMES]
    return [
        claims.data_matter(NAMES, [digits, noise], f"before training, {len(digits)} starts"),
        claims.data_matter(NAMES, after, "after training, one seed"),
    ]


NAMES = ["digits", "random inputs"]

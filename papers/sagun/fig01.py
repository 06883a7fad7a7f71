"""Figure 1: the whole Hessian of 784-2-10, and exact spectra of 784-k-k-10 for growing k."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from common import style
from common.data import digest
from matplotlib import colormaps
from matplotlib.figure import Figure

import hesscope as hs
from sagun import claims, networks, repeats, simple
from sagun.context import Context, finished
from sagun.settings import TAU

TITLE = "Full Hessian of 784-2-10, and spectra of growing networks on digits"


def measure(c: Context) -> dict[str, Any]:
    """Trains, and computes every eigenvalue."""
    s = c.settings.digits
    layers = (c.X.shape[1], 2, 10)
    small, problem = c.trained("digits-2", layers, c.X, c.y, s.gentle(s.small_lr))
    H = c.run.arrays(
        "digits-2/hessian", digest(problem.theta), lambda: {"H": hs.Hessian(problem).to_dense()}
    )["H"]
    found = {}
    for width in c.settings.widths:
        trained, problem = c.digits(width)
        found[width] = trained, c.spectrum(f"digits-{width}/spectrum", problem)
    densities = {k: _density(c, k) for k in c.settings.densities if k not in found}
    return {
        "small": small, "H": H, "networks": found, "densities": densities, "settings": c.settings,
        "repeats": repeats.descents(c),
    }  # fmt: skip


def _density(c: Context, width: int) -> tuple[Any, hs.SpectralDensity]:
    """Where the exact spectrum is not asked for: counts with intervals, from products."""
    trained, problem = c.digits(width)
    matvecs = c.settings.agreement.matvecs
    return trained, c.run.result(
        f"digits-{width}/density",
        (matvecs, digest(problem.theta)),
        lambda: hs.spectral_density(hs.Hessian(problem), matvecs),
    )


def draw(m: dict[str, Any]) -> Figure:
    """The heat map and the axes of the paper on the left, one spectrum below the other beside."""
    num = len(m["networks"]) + len(m["densities"])
    figure = Figure(figsize=(12, max(7.6, 2.4 * num)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.4])
    above, below = left.subplots(2, 1, height_ratios=[1.1, 1])
    _heatmap(above, m["H"])
    _overlay(below, m)
    _spectra(right.subplots(num, 1, sharex=True), m)
    return figure


def _spectra(axes: Any, m: dict[str, Any]) -> None:
    """All decades of each spectrum: bars are exact counts, or intervals that hold them."""
    tau = _tau(m)
    for ax, (width, (_, spectrum)) in zip(axes, m["networks"].items(), strict=False):
        hs.plots.spectrum_histogram(spectrum, tau=tau, ax=ax)
        middle = spectrum.count(-tau, tau)
        title = f"k = {width}, exact: {len(spectrum):,} eigenvalues, {middle:,} in the middle bin"
        ax.set_title(title, fontsize=10)
    below = axes[len(m["networks"]) :]
    for ax, (width, (_, density)) in zip(below, m["densities"].items(), strict=True):
        hs.plots.density(density, tau=tau, ax=ax)
        inside = density.count(-tau, tau)
        title = f"{inside.low:,.0f} to {inside.high:,.0f} in the middle bin"
        title = f"k = {width}, {density.num_matvecs} products: {density.n:,} eigenvalues, {title}"
        ax.set_title(title, fontsize=10)
        ax.get_legend().remove()
    for ax in axes:
        ax.set_ylim(0.6, 2.2 * max(_sizes(m)))
        style.decades(ax, tau, *_limits(m))
    for ax in axes[:-1]:
        ax.set_xlabel("")


def _overlay(ax: Any, m: dict[str, Any]) -> None:
    """The histograms of all networks over one linear axis, as the paper draws them."""
    low, high = (end / 2 for end in _limits(m))
    edges = torch.linspace(low - 0.02 * high, 1.02 * high, 60, dtype=torch.float64)
    counts = {
        width: torch.tensor([[s.count(float(a), float(b))] * 2 for a, b in pairwise(edges)])
        for width, (_, s) in m["networks"].items()
    }
    for width, (_, d) in m["densities"].items():
        found = [d.count(float(a), float(b)) for a, b in pairwise(edges)]
        counts[width] = torch.tensor([[interval.low, interval.high] for interval in found])
    colours = colormaps["cividis"](torch.linspace(0, 0.85, len(counts)).numpy())
    for (width, rows), colour in zip(counts.items(), colours, strict=True):
        least, most = (torch.cat([part, part[-1:]]) for part in rows.double().T)
        ax.step(edges, (least + most) / 2, where="post", color=colour, lw=1.2, label=f"k = {width}")
        ax.fill_between(edges, least, most, step="post", color=colour, alpha=0.25, linewidth=0)
    ax.set_yscale("log")
    ax.set_ylim(0.6, 2.2 * max(_sizes(m)))
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel("eigenvalues per bin")
    ax.set_title("as the paper draws them: linear axis", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)


def _sizes(m: dict[str, Any]) -> list[int]:
    """The numbers of parameters."""
    exact = [len(s) for _, s in m["networks"].values()]
    return exact + [d.n for _, d in m["densities"].values()]


def _heatmap(ax: Any, H: torch.Tensor) -> None:
    every = 1 if len(H) < 1000 else 2
    names, edges, rows = _blocks(len(H), every)
    hs.plots.heatmap(H[rows][:, rows], names=names, boundaries=edges, ax=ax)
    ax.set_title(f"{_inputs(H)}-2-10: every {'second pixel' if every == 2 else 'parameter'}")


def _tau(m: dict[str, Any]) -> float:
    """One threshold for all widths, relative to the largest eigenvalue of all."""
    largest = max(float(s.eigenvalues.abs().max()) for _, s in m["networks"].values())
    return max(TAU * largest, 10 * max(s.error for _, s in m["networks"].values()))


def _limits(m: dict[str, Any]) -> tuple[float, float]:
    ends = [s.eigenvalues[[0, -1]] for _, s in m["networks"].values()]
    low, high = torch.stack(ends).amin(0)[0], torch.stack(ends).amax(0)[1]
    return 2 * float(low), 2 * float(high)


def _inputs(H: torch.Tensor) -> int:
    return (len(H) - 30) // 2 - 1


def _blocks(n: int, every: int) -> tuple[list[str], list[int], torch.Tensor]:
    """Every second weight of the first layer, so that the map has at most 1,000 rows."""
    first = (n - 30) // 2 - 1
    pixels = torch.arange(0, first, every)
    rows = torch.cat([pixels, first + pixels, torch.arange(2 * first, n)])
    p = len(pixels)
    return ["unit 1", "unit 2", "other"], [p, 2 * p], rows


def caption(m: dict[str, Any]) -> str:
    """What is seen, in numbers."""
    s = m["settings"].digits
    small = m["small"]
    lines = [
        f"784-2-10 (lr = {s.small_lr:g}): loss {float(small['losses'][0]):.2g}, "
        f"{finished(small, s.tolerance)}."
    ]
    for width, (trained, spectrum) in m["networks"].items():
        zeros = ", ".join(f"{num:,} {cause}" for cause, num in spectrum.zeros.items()) or "none"
        errors = ", ".join(f"{k} {v:.0e}" for k, v in spectrum.identities.items())
        lines.append(
            f"k = {width}: {len(spectrum):,} parameters, loss {float(trained['losses'][0]):.2g}, "
            f"{finished(trained, s.tolerance)}; λmax {float(spectrum.eigenvalues[-1]):.4g}, "
            f"λmin {float(spectrum.eigenvalues[0]):.2g}; exact zeros explained by data and model: "
            f"{zeros}. Relative errors of identities: {errors or 'not checked'}."
        )
    for width, (trained, density) in m["densities"].items():
        lines.append(
            f"k = {width}: {density.n:,} parameters, loss {float(trained['losses'][0]):.2g}, "
            f"{finished(trained, s.tolerance)}; not exact: lines are intervals that hold the "
            f"counts of their bins, from {density.num_matvecs} products (`--widths` asks for "
            f"the exact spectrum); λmax {float(density.outliers[0]):.4g}."
        )
    ends = repeats.gathered(m["repeats"])
    if len(ends["losses"]) > 1:
        n = len(m["repeats"][0].spectra[-1])
        lines.append(
            f"{len(ends['losses'])} starts of n = {n:,}: {finished(ends, s.tolerance)}, "
            f"{simple.living(ends)}, loss {claims.spread(ends['losses'])}."
        )
    return " ".join(lines)


def check(m: dict[str, Any]) -> list[claims.Claim]:
    """Growth over the widths, one seed each; singularity and end points over the seeds."""
    sizes = [len(s) for _, s in m["networks"].values()]
    seed = f"digits, seed {m['settings'].digits.seed}"
    tops = [s.eigenvalues for _, s in m["networks"].values()]
    counts, clear = zip(*(networks.isolated(t[None], 10) for t in tops), strict=True)
    growth = [claims.isolated_stay(sizes, torch.stack(counts), torch.stack(clear))]
    return [
        *_singular(m),
        *_growth(m, seed),
        *(growth if len(sizes) > 1 else []),  # one exact spectrum says nothing of growth
        *_ends(m),
    ]


def _singular(m: dict[str, Any]) -> list[claims.Claim]:
    """The share at zero of every network whose spectrum is exact."""
    found = {len(s): s.eigenvalues[None] for _, s in m["networks"].values()}
    found[len(m["repeats"][0].spectra[-1])] = _at_the_end(m)
    return [
        claims.very_singular(
            networks.near_zero(values, TAU, relative=True) / n,
            f"n = {n:,}: share within {TAU:g} of λmax; digits, {seeds(values)}",
        )
        for n, values in found.items()
    ]


def _ends(m: dict[str, Any]) -> list[claims.Claim]:
    """Negative eigenvalues and the gradient where training ended, over the seeds."""
    values, ends = _at_the_end(m), repeats.gathered(m["repeats"])
    where = f"n = {values.shape[1]:,}, digits, {seeds(values)}"
    errors = torch.tensor([d.spectra[-1].error for d in m["repeats"]])
    rounding = networks.gradient_rounding(ends["theta"], values)
    return [
        claims.negative_remain(values[:, 0], errors, values[:, -1], where),
        claims.not_critical(ends["gradient_norms"], rounding, where),
    ]


def _at_the_end(m: dict[str, Any]) -> torch.Tensor:
    """Eigenvalues at the end of training, (seeds, n)."""
    return torch.stack([d.eigenvalues[-1] for d in m["repeats"]])


def seeds(values: torch.Tensor) -> str:
    """How many rows there are, in words."""
    return "one seed" if len(values) == 1 else f"{len(values)} seeds"


def _growth(m: dict[str, Any], seed: str) -> list[claims.Claim]:
    """Exact counts where there are spectra, and intervals at 95 % where there are densities."""
    sizes, tops, counts = [], [], []
    for _, s in m["networks"].values():
        tau = TAU * float(s.eigenvalues.abs().max())
        sizes.append(len(s))
        tops.append(float(s.eigenvalues[-1]))
        counts.append((s.count(-tau, tau),) * 2)
    for _, d in m["densities"].values():
        found = d.null(TAU * d.size)
        sizes.append(d.n)
        tops.append(float(d.outliers[0]))
        counts.append((found.low, found.high))
    if len(sizes) < 2:
        return []
    low, high = torch.tensor(counts).double().T
    return [
        claims.bulk_surely_grows(sizes, low, high, f"{seed}, within {TAU:g} λmax"),
        claims.top_does_not_grow(sizes, tops, seed),
    ]

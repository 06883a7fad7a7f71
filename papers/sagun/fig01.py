"""Figure 1: the whole Hessian of 784-2-10, and exact spectra of 784-k-k-10 for growing k."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure

import hesscope as hs
from sagun import claims, networks, style
from sagun.context import Context, finished
from sagun.data import digest
from sagun.settings import TAU

TITLE = "Full Hessian of 784-2-10, and spectra of growing networks on digits"


def measure(c: Context) -> dict[str, Any]:
    """Trains, and computes every eigenvalue."""
    s = c.settings.digits
    gentle = replace(s, lr=s.small_lr, steps=s.less_steps)
    small, problem = c.trained("digits-2", (c.X.shape[1], 2, 10), c.X, c.y, gentle)
    H = c.run.arrays(
        "digits-2/hessian", digest(problem.theta), lambda: {"H": hs.Hessian(problem).to_dense()}
    )["H"]
    found = {}
    for width in c.settings.widths:
        trained, problem = c.digits(width)
        found[width] = trained, c.spectrum(f"digits-{width}/spectrum", problem)
    densities = {k: _density(c, k) for k in c.settings.densities if k not in found}
    return {
        "small": small, "H": H, "networks": found, "densities": densities, "settings": c.settings
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
    """The heat map on the left, one spectrum below the other on the right."""
    num = len(m["networks"]) + len(m["densities"])
    figure = Figure(figsize=(12, max(4.4, 2.4 * num)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.4])
    edge = max(0.01, (2.4 * num - 4.6) / 2)  # the map is square: room above and below
    grid = left.add_gridspec(3, 1, height_ratios=[edge, 4.6, edge])
    _heatmap(left.add_subplot(grid[1]), m["H"])
    axes = right.subplots(num, 1, sharex=True)
    tau, most = _tau(m), max(len(s) for _, s in m["networks"].values())
    most = max([most, *(d.n for _, d in m["densities"].values())])
    for ax, (width, (_, spectrum)) in zip(axes, m["networks"].items(), strict=False):
        hs.plots.spectrum_histogram(spectrum, tau=tau, ax=ax)
        middle = spectrum.count(-tau, tau)
        title = f"k = {width}, exact: {len(spectrum):,} eigenvalues, {middle:,} in the middle bin"
        ax.set_title(title, fontsize=10)
    for ax, (width, (_, density)) in zip(axes[-num:][::-1], _last(m), strict=False):
        hs.plots.density(density, tau=tau, ax=ax)
        inside = density.count(-tau, tau)
        title = f"{inside.low:,.0f} to {inside.high:,.0f} in the middle bin"
        title = f"k = {width}, {density.num_matvecs} products: {density.n:,} eigenvalues, {title}"
        ax.set_title(title, fontsize=10)
        ax.get_legend().remove()
    for ax in axes:
        ax.set_ylim(0.6, 2.2 * most)
        style.decades(ax, tau, *_limits(m))
    for ax in axes[:-1]:
        ax.set_xlabel("")
    return figure


def _last(m: dict[str, Any]) -> list[Any]:
    """Densities from the lowest panel upwards."""
    return list(m["densities"].items())[::-1]


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
    return " ".join(lines)


def check(m: dict[str, Any]) -> list[claims.Claim]:
    """Singularity and growth of the bulk, one seed for each width."""
    spectra = [s for _, s in m["networks"].values()]
    sizes = [len(s) for s in spectra]
    relative = [networks.near_zero(s.eigenvalues, TAU, relative=True) for s in spectra]
    seed = f"digits, seed {m['settings'].digits.seed}"
    shares = torch.tensor([float(z) / n for z, n in zip(relative, sizes, strict=True)])
    widths = ", ".join(f"k = {k}" for k in m["networks"])
    tops = [s.eigenvalues for s in spectra]
    counts, clear = zip(*(networks.isolated(t[None], 10) for t in tops), strict=True)
    trained = [t for t, _ in m["networks"].values()]
    norms = torch.cat([t["gradient_norms"] for t in trained])
    rounding = [
        networks.gradient_rounding(t["theta"], top[None])
        for t, top in zip(trained, tops, strict=True)
    ]
    growth = [claims.isolated_stay(sizes, torch.stack(counts), torch.stack(clear))]
    return [
        claims.very_singular(shares, f"{widths}: share within {TAU:g} of λmax; {seed}"),
        *_growth(m, seed),
        *(growth if len(sizes) > 1 else []),  # one exact spectrum says nothing of growth
        claims.negative_remain(
            torch.stack([t[0] for t in tops]),
            torch.tensor([s.error for s in spectra]),
            torch.stack([t[-1] for t in tops]),
            seed,
        ),
        claims.not_critical(norms, torch.cat(rounding), seed),
    ]


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

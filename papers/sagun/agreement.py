"""Not in the paper: four answers about one network of figure 1, and whether they agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from common.data import digest
from common.style import NEGATIVE, POSITIVE, ZERO
from matplotlib.figure import Figure

import hesscope as hs
from sagun import claims
from sagun.context import Context

TITLE = "Exact spectrum, certified ends, density and counts agree"


@dataclass(frozen=True)
class Agreement:
    """Does each answer contain the truth that the exact spectrum gives?"""

    pairs: bool  # every eigenvalue of Lanczos within its residual of the exact one of its rank
    certificate: bool  # both certificates hold
    counts: float  # share of intervals of counts that hold the exact count
    band: bool  # the cumulative band holds the exact shares at all points

    @property
    def all(self) -> bool:
        """Everything at its stated level; counts hold pointwise with 95 %."""
        return self.pairs and self.certificate and self.band and self.counts >= 0.9


def measure(c: Context) -> dict[str, Any]:
    """The four answers about the first network of figure 1."""
    width, s = c.settings.widths[0], c.settings.agreement
    _, problem = c.digits(width)
    spectrum = c.spectrum(f"digits-{width}/spectrum", problem)
    H, key = hs.Hessian(problem), (s, digest(problem.theta))

    def keep(name: str, job: Any) -> Any:
        return c.run.result(f"agreement/{name}", key, job)

    return {
        "spectrum": spectrum,
        "top": keep("top", lambda: hs.eigsh(H, s.pairs, "LA")),
        "bottom": keep("bottom", lambda: hs.eigsh(H, s.pairs // 2, "SA")),
        "density": keep("density", lambda: hs.spectral_density(H, s.matvecs)),
        "width": width,
    }


def thresholds(spectrum: hs.Spectrum) -> torch.Tensor:
    """Where counts and band are compared: both signs, 1e-6 to 1 of the largest |λ|."""
    size = float(spectrum.eigenvalues.abs().max())
    sizes = torch.logspace(-6, 0, 37, dtype=torch.float64) * size
    return torch.cat([-sizes.flip(0), sizes])


def compare(
    spectrum: hs.Spectrum, top: hs.Eigenpairs, bottom: hs.Eigenpairs, density: hs.SpectralDensity
) -> Agreement:
    """Every interval against the exact eigenvalues."""
    values, x = spectrum.eigenvalues, thresholds(spectrum)
    near = [
        (pairs.eigenvalues - exact).abs() <= pairs.residuals + spectrum.error
        for pairs, exact in (
            (top, values.flip(0)[: len(top)]),
            (bottom, values[: len(bottom)]),
        )
    ]
    sure = (
        top.certificate.upper >= values[-1] - spectrum.error
        and bottom.certificate.lower <= values[0] + spectrum.error
    )
    held = [
        density.count(low=t).low <= spectrum.count(low=t) <= density.count(low=t).high
        for t in x.tolist()
    ]
    low, high = density.band(x)
    share = torch.searchsorted(values, x, right=True).double() / len(values)
    inside = bool(((share >= low - 1e-12) & (share <= high + 1e-12)).all())
    return Agreement(
        pairs=bool(torch.cat(near).all()),
        certificate=bool(sure),
        counts=float(np.mean(held)),
        band=inside,
    )


def draw(m: dict[str, Any]) -> Figure:
    """The density with its counts, the band with the exact shares, and the ends."""
    figure = Figure(figsize=(12, 7.4), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    spectrum, density = m["spectrum"], m["density"]
    _counts(figure.add_subplot(grid[0, :]), spectrum, density)
    ax = hs.plots.density(density, kind="cdf", ax=figure.add_subplot(grid[1, 0]))
    x = thresholds(spectrum)
    share = torch.searchsorted(spectrum.eigenvalues, x, right=True).double() / len(spectrum)
    ax.step(x, share, where="mid", color=NEGATIVE, lw=1.2, ls="--", label="exact")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.93), fontsize=8)
    _ends(figure.add_subplot(grid[1, 1]), m)
    return figure


def _counts(ax: Any, spectrum: hs.Spectrum, density: hs.SpectralDensity) -> None:
    """Exact counts in bins as bars, and the interval that the density states for each."""
    tau, size = density.tau, float(spectrum.eigenvalues.abs().max())
    edges = np.geomspace(tau, size * 1.001, 2 * math.ceil(math.log10(size / tau)) + 1)
    edges = np.concatenate([-edges[::-1], edges])
    bins = [(a, b) for a, b in pairwise(edges) if b >= density.lower and a <= density.upper]
    level = 1 - density.delta - (0.05 - density.delta) / len(bins)
    held = 0
    for a, b in bins:
        exact, stated = spectrum.count(a, b), density.count(a, b, level)
        middle = 0.0 if a < 0 < b else np.sign(a + b) * np.sqrt(abs(a * b))
        colour = NEGATIVE if b <= 0 else POSITIVE if a >= 0 else ZERO
        ax.bar(a, exact, b - a, align="edge", color=colour, linewidth=0, alpha=0.8)
        ax.vlines(middle, max(stated.low, 0.6), max(stated.high, 0.6), color="black", lw=1.2)
        held += exact in stated
    ax.plot([], [], color="black", lw=1.2, label="interval from the density, all at 95 %")
    ax.set_xscale("symlog", linthresh=tau, linscale=0.5)
    ax.set_yscale("log")
    ax.set_ylim(0.6, 3 * len(spectrum))
    ax.set_xlim(edges[0] if bins[0][0] <= edges[0] else 3 * bins[0][0], 1.3 * edges[-1])
    ax.set_xlabel(f"eigenvalue (middle bin within ± {tau:.0e})")
    ax.set_ylabel("eigenvalues per bin (exact)")
    ax.set_title(f"{held} of {len(bins)} intervals hold the exact count", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper left", fontsize=8)


def _ends(ax: Any, m: dict[str, Any]) -> None:
    """Differences of Lanczos from the exact values beside the stated residuals."""
    values = m["spectrum"].eigenvalues
    for name, pairs, exact, colour in (
        ("largest", m["top"], values.flip(0), POSITIVE),
        ("smallest", m["bottom"], values, NEGATIVE),
    ):
        ranks = range(1, len(pairs) + 1)
        error = (pairs.eigenvalues - exact[: len(pairs)]).abs().clamp(min=1e-18)
        ax.plot(ranks, error, "o", color=colour, label=f"{name}: |Lanczos - exact|")
        ax.plot(ranks, pairs.residuals, "_", color=colour, ms=12, label=f"{name}: stated residual")
    ax.axhline(m["spectrum"].error, color=ZERO, lw=0.9, ls="--", label="error of the exact")
    ax.set_yscale("log")
    ax.set_xlabel("rank from its end")
    ax.set_ylabel("error of an eigenvalue")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)


def caption(m: dict[str, Any]) -> str:
    """The verdict and what it cost."""
    a = compare(m["spectrum"], m["top"], m["bottom"], m["density"])
    num = len(thresholds(m["spectrum"]))
    spent = m["top"].num_matvecs + m["bottom"].num_matvecs
    return (
        f"784-{m['width']}-{m['width']}-10 after training, {len(m['spectrum']):,} parameters. "
        f"Eigenvalues of Lanczos ({spent} products) within their residuals: {_word(a.pairs)}; "
        f"certificates hold: {_word(a.certificate)}; cumulative band ({m['density'].num_matvecs} "
        f"products) holds the exact shares everywhere: {_word(a.band)}; of {num} single "
        f"counts at 95 % held: {a.counts:.0%}. {m['top'].certificate}"
    )


def _word(value: bool) -> str:
    return "yes" if value else "no"


def check(m: dict[str, Any]) -> list[claims.Claim]:  # noqa: ARG001  one signature for all figures
    """Not a claim of the paper."""
    return []

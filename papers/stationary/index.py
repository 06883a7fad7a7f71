"""The index of critical points against their loss, and the semicircle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from common.claims import NO, PARTLY, YES, Claim, number, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib.figure import Figure
from torch import Tensor

import hesscope as hs
from stationary import finder, points
from stationary.networks import setting
from stationary.settings import Sizes

COLOURS = {"teacher": POSITIVE, "noise": NEGATIVE, "linear": MARK, "digits": "#4b8b3b"}
CONTROL = "spins"


@dataclass(frozen=True)
class Fit:
    """What a setting's critical points say."""

    found: Arrays
    curve: hs.Result | None  # of hs.rmt.index_curve
    distances: Tensor  # of each spectrum from a semicircle
    tau: float  # Spearman's, of loss and share

    @property
    def share(self) -> Tensor:
        """Of eigenvalues that are negative."""
        return finder.share(self.found["eigenvalues"])


def measure(run: Run, sizes: Sizes) -> Section:
    """All settings and the control."""
    every = {name: points.found(run, sizes, name) for name in (*sizes.networks, CONTROL)}
    fits = {name: fit(points.sure(found)) for name, found in every.items()}
    claims = [
        rises({n: f.tau for n, f in fits.items()}),
        semicircle({n: f.distances for n, f in fits.items()}),
    ]
    numbers = {
        name: {
            "losses": f.found["loss"],
            "shares": f.share,
            "zeros": finder.zeros(f.found["eigenvalues"]),
        }
        for name, f in fits.items()
    }
    return Section(_text(every, fits), claims, draw(fits), numbers)


def fit(found: Arrays) -> Fit:
    """The random-matrix curve through distinct critical points."""
    values, losses = found["eigenvalues"], found["loss"]
    share = finder.share(values)
    try:
        curve = hs.rmt.index_curve(losses, share)
    except ValueError:  # too few points that differ
        curve = None
    distances = torch.tensor([from_semicircle(row) for row in values], dtype=torch.float64)
    return Fit(found, curve, distances, spearman(losses, share))


def spearman(x: Tensor, y: Tensor) -> float:
    """The rank correlation; NaN of fewer than three points or of constants."""
    if len(x) < 3:
        return math.nan
    ranks = torch.stack([_ranks(x), _ranks(y)])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(x: Tensor) -> Tensor:
    """From 0; ties share the mean of theirs."""
    below = (x[None, :] < x[:, None]).sum(1)
    same = (x[None, :] == x[:, None]).sum(1)
    return below + (same - 1) / 2


def from_semicircle(values: Tensor) -> float:
    """Largest difference of distributions: eigenvalues but for zeros, and a semicircle like them.

    The semicircle has their mean and their variance (Kolmogorov's distance).
    """
    x = values[values.abs() > finder.ZERO * values.abs().max()].sort().values
    if len(x) < 3:
        return math.nan
    law = hs.rmt.Semicircle(sigma=float(x.std(correction=0))).cdf(x - x.mean())
    steps = torch.arange(len(x) + 1, dtype=torch.float64) / len(x)
    return float(torch.maximum((law - steps[:-1]).abs(), (law - steps[1:]).abs()).max())


def rises(taus: dict[str, float]) -> Claim:
    """Yes where the rank correlation is at least 0.7 in every setting, in part from 0.3."""
    nets = [tau for name, tau in taus.items() if name != CONTROL]
    measured = "rank correlation of loss and share of negative curvatures: " + ", ".join(
        f"{name} {tau:.2f}" for name, tau in taus.items()
    )
    holds = YES if min(nets) >= 0.7 else PARTLY if min(nets) >= 0.3 else NO
    tried = tuple(f"{name} {tau:.2f}" for name, tau in taus.items()) if holds == NO else ()
    text = "The higher a critical point, the more of its curvatures are negative"
    return Claim(text, measured, holds, "landscapes/left-shift", tried)


def semicircle(distances: dict[str, Tensor]) -> Claim:
    """Yes where the median distance from a semicircle is at most twice the control's everywhere.

    In part if that is so in some setting, no if in none.
    """
    medians = {name: float(d.nanmedian()) for name, d in distances.items()}
    most = 2 * medians[CONTROL]
    near = [name for name in medians if name != CONTROL and medians[name] <= most]
    holds = YES if len(near) == len(medians) - 1 else PARTLY if near else NO
    each = tuple(f"{name} {spread(d[d.isfinite()])}" for name, d in distances.items())
    measured = "Kolmogorov's distance of spectra from the semicircle of their mean and variance: "
    text = "The spectrum at a critical point is a semicircle that moves to the left with the loss"
    measured += (
        f"above twice the control's in {len(medians) - 1 - len(near)} settings"
        if holds == NO
        else ""
    )
    measured += "" if holds == NO else ", ".join(each)
    return Claim(text, measured, holds, "landscapes/left-shift", each if holds == NO else ())


def draw(fits: dict[str, Fit]) -> Figure:
    """Left the shares, right spectra of one high critical point each."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    networks, control, spectra = figure.subplots(1, 3)
    for name, one in fits.items():
        ax = control if name == CONTROL else networks
        colour = COLOURS.get(name, ZERO)
        low, high = float(one.found["loss"].min()), float(one.found["loss"].max())
        scale = 1.0 if name == CONTROL else high
        ax.plot(
            one.found["loss"] / scale, one.share, "o", ms=4, color=colour, label=name, alpha=0.8
        )
        if one.curve is not None:
            x = torch.linspace(low, high, 100, dtype=torch.float64)
            y = hs.rmt.negative_share(x, one.curve.threshold, one.curve.slope)
            ax.plot(x / scale, y, color=colour, lw=1)
        chosen = one.found["eigenvalues"][len(one.found["loss"]) // 2]
        x = chosen[chosen.abs() > finder.ZERO * chosen.abs().max()].sort().values
        x = (x - x.mean()) / x.std(correction=0)
        spectra.step(x, torch.arange(1, len(x) + 1) / len(x), color=colour, lw=1.2, where="post")
    x = torch.linspace(-2.5, 4, 200, dtype=torch.float64)
    spectra.plot(x, hs.rmt.Semicircle(sigma=1.0).cdf(x), "k--", lw=1, label="semicircle")
    networks.set_xlabel("loss, of the highest one")
    control.set_xlabel("loss per spin")
    spectra.set_xlabel("(λ - mean) / deviation, zeros left out")
    networks.set_ylabel("share of negative curvatures")
    spectra.set_ylabel("share of eigenvalues below")
    titles = "networks", "control: spherical 3-spin", "the spectrum of one point each"
    for ax, title in zip((networks, control, spectra), titles, strict=True):
        ax.set_title(title, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    networks.legend(frameon=False, fontsize=8)
    spectra.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _text(every: dict[str, Arrays], fits: dict[str, Fit]) -> str:
    rows = []
    for name, found in every.items():
        one = fits[name]
        curve = one.curve
        rows.append(
            [
                name,
                str(len(found["critical"])),
                f"{int(found['critical'].sum())}, {int(found['certain'].sum())}",
                str(int(found["flat"].sum())),
                str(len(one.found["loss"])),
                spread(one.share),
                "none"
                if curve is None
                else f"{number(curve.threshold)} ± {number(curve.threshold_error)}",
                "none" if curve is None else f"{number(curve.rms_residual)}",
            ]
        )
    words = "; ".join(f"{n}: {setting(n).words}" for n in every if n != CONTROL)
    head = [
        "setting", "searches", "critical, index certain", "gradient-flat", "distinct",
        "share negative", "threshold of the curve", "its rms residual",
    ]  # fmt: skip
    return (
        f"{words}; spins: a random cubic form on a sphere, for which the picture is proven. "
        "A search (Levenberg and Marquardt's on the squared gradient, exact Hessians in float64) "
        "starts from points on paths of training and from points moved off them, and counts where "
        f"the gradient norm ends below {finder.TOLERANCE:g}. The index is certain where every "
        f"eigenvalue is above {finder.CLEAR:g} of the largest, or below {finder.ZERO:g} of it. "
        "Many searches end where the squared gradient has a minimum above zero: gradient-flat "
        "points, which are not critical. Critical points that symmetries carry into one another "
        "count once. Shares are of eigenvalues that are not zero. For the spins the theory has "
        "the threshold at -1.63.\n\n" + table(head, rows)
    )

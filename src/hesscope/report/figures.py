"""What the figures of a page show, as numbers, which its script draws and copies as CSV."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from hesscope import rounding
from hesscope.plots import symlog
from hesscope.plots.density import LEVEL, PER_DECADE
from hesscope.plots.spectra import BINS_PER_DECADE
from hesscope.report.sections import known
from hesscope.results.density import SpectralDensity
from hesscope.results.smoothness import Smoothness
from hesscope.results.spectrum import Eigenpairs, Spectrum
from hesscope.results.step import Step

CURVE = 121  # points of a parabola
MOST_PAIRS = 500  # that are drawn one by one
BEYOND = 1.25  # of the step: how far its picture goes at least
CLIMB = 4.0  # how many times its fall the loss may rise in the first view of a step

Kind = Literal["line", "dashed", "dots", "bars", "rug"]
Scale = Literal["linear", "log", "symlog"]


@dataclass(frozen=True)
class Axis:
    """What an axis measures; `tau` is half the middle of a symlog one."""

    label: str
    scale: Scale = "linear"
    tau: float = 1.0
    whole: bool = False  # whether it counts

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {"label": self.label, "scale": self.scale, "tau": self.tau, "whole": self.whole}


@dataclass(frozen=True)
class Marks:
    """One series: points, bars from `x` to `ends`, or marks along the upper edge."""

    name: str
    kind: Kind
    x: Sequence[float]
    y: Sequence[float] = ()
    ends: Sequence[float] = ()
    low: Sequence[float] = ()  # of the interval that holds the truth
    high: Sequence[float] = ()
    unsure: Sequence[bool] = ()  # there may be none
    colour: str = "c0"

    def plain(self) -> dict[str, Any]:
        """As JSON, without what is not there; null for what is not finite."""
        numbers = {"x": self.x, "y": self.y, "ends": self.ends, "low": self.low, "high": self.high}
        short = {key: [_short(v) for v in values] for key, values in numbers.items() if len(values)}
        told = {"name": self.name, "kind": self.kind, "colour": self.colour}
        return {**told, **short, **({"unsure": list(self.unsure)} if self.unsure else {})}


@dataclass(frozen=True)
class Figure:
    """A figure: its words, its axes, and what is drawn."""

    key: str
    title: str
    caption: str
    told: str  # for whom it cannot be seen
    x: Axis
    y: Axis
    series: tuple[Marks, ...]
    lines: Mapping[str, float] = field(default_factory=dict)  # upright, by name
    view: tuple[float, float] | None = None  # of x, to begin with

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "title": self.title,
            "x": self.x.plain(),
            "y": self.y.plain(),
            "series": [one.plain() for one in self.series],
            "lines": [[name, _short(at)] for name, at in self.lines.items()],
            "view": None if self.view is None else [_short(end) for end in self.view],
        }


def figures(results: Mapping[str, Any]) -> list[Figure]:
    """The figures that these results are worth."""
    found: list[Figure] = []
    step = step_figure(results)
    spectrum = _first(results, Spectrum)
    pairs = [(key, one) for key, one in results.items() if isinstance(one, Eigenpairs)]
    density = _first(results, SpectralDensity)
    if spectrum is not None and _is_drawn(spectrum.eigenvalues):
        shown = [one for _, one in pairs if _is_drawn(one.eigenvalues)]
        found.append(spectrum_figure(spectrum, shown[0] if shown else None))
    elif density is not None:
        found.append(density_figure(density))
    if spectrum is None:
        found += [pairs_figure(key, one) for key, one in pairs if _is_drawn(one.eigenvalues)]
    return [*([step] if step else []), *found]


def spectrum_figure(spectrum: Spectrum, pairs: Eigenpairs | None) -> Figure:
    """How many eigenvalues lie where, exactly."""
    values = spectrum.eigenvalues.numpy()
    size = float(np.abs(values).max())
    tau = max(spectrum.tau, rounding.tiny())
    edges = symlog.bin_edges(tau, max(size, 10 * tau), BINS_PER_DECADE)
    counts = np.histogram(values, edges)[0].tolist()
    pairwise = itertools.pairwise(edges.tolist())
    bins = [(a, b, float(n)) for (a, b), n in zip(pairwise, counts, strict=True) if n]
    series = [_bars(name, colour, part) for name, colour, part in _by_sign(bins)]
    caption = "All eigenvalues of the Hessian, exactly; both axes are logarithmic away from 0."
    if pairs is not None:
        name = f"found without the matrix, {pairs.num_matvecs} matvecs"
        series.append(Marks(name, "rug", pairs.eigenvalues[:MOST_PAIRS].tolist(), colour="c4"))
        caption += " The marks at the upper edge were found without the matrix."
    negative, positive = spectrum.count(high=-tau), spectrum.count(low=tau)
    told = (
        f"{negative:,} eigenvalues below -{tau:.1e}, {len(spectrum) - negative - positive:,} "
        f"within, {positive:,} above; from {values[0]:.4g} to {values[-1]:.4g}."
    )
    return Figure(
        "spectrum", "All eigenvalues", caption, told,
        _eigenvalue(tau), Axis("eigenvalues per bin", "log", whole=True), tuple(series),
    )  # fmt: skip


def density_figure(density: SpectralDensity) -> Figure:
    """How many eigenvalues lie where, as counts with the intervals that hold for them."""
    tau = max(density.tau, rounding.LOST)
    edges = symlog.bin_edges(tau, max(density.size, 10 * tau), PER_DECADE).tolist()
    bins = [(a, b) for a, b in itertools.pairwise(edges) if b >= density.lower]
    bins = [(a, b) for a, b in bins if a <= density.upper]
    level = 1 - (1 - LEVEL - density.delta) / len(bins) - density.delta
    rows = [(a, b, density.expected(a, b), density.count(a, b, level)) for a, b in bins]
    rows = [row for row in rows if row[3].high > 0]
    series = []
    for name, colour, part in _by_sign(rows):
        held = [row[3] for row in part]
        one = _bars(name, colour, part)
        lows, highs = [i.low for i in held], [i.high for i in held]
        series.append(_with(one, lows, highs, [i.low <= 0 for i in held]))
    known = len(density.outliers)
    if 0 < known < density.n:
        series.append(
            Marks("single outliers", "rug", density.outliers[:MOST_PAIRS].tolist(), colour="c4")
        )
    below, within, above = (ask() for ask in (density.negative, density.null, density.positive))
    told = "; ".join(
        f"{i.low:,.0f} to {i.high:,.0f} eigenvalues {where}"
        for i, where in ((below, f"below -{tau:.1e}"), (within, "within"), (above, "above"))
    )
    caption = (
        "How many eigenvalues lie where: bars are the best single counts, lines the intervals "
        f"that hold them, all at {LEVEL:.0%}. Hatched bars may be none. A long line near zero says "
        "that this many products cannot tell small eigenvalues from zero."
    )
    return Figure(
        "density", "Density of eigenvalues", caption, f"{told}, at 95 %.",
        _eigenvalue(tau), Axis("eigenvalues per bin", "log", whole=True), tuple(series),
    )  # fmt: skip


def pairs_figure(key: str, pairs: Eigenpairs) -> Figure:
    """Eigenvalues in their order, with the intervals that certainly hold one."""
    title = known(key).title
    values, errors = (x[:MOST_PAIRS].tolist() for x in (pairs.eigenvalues, pairs.residuals))
    marks = Marks(
        "eigenvalue ± residual", "dots", list(range(1, len(values) + 1)), values,
        low=[v - e for v, e in zip(values, errors, strict=True)],
        high=[v + e for v, e in zip(values, errors, strict=True)],
    )  # fmt: skip
    told = f"{len(pairs):,} eigenvalues from {min(values):.4g} to {max(values):.4g}."
    caption = "Each with the interval that certainly holds an eigenvalue, λ ± residual."
    x, y = Axis("rank", whole=True), Axis("eigenvalue")
    return Figure(f"pairs-{key}", title, caption, told, x, y, (marks,))


def step_figure(results: Mapping[str, Any]) -> Figure | None:
    """The loss along the next step, measured, beside the parabola of slope and curvature."""
    loss, step, smooth = results.get("loss"), results.get("step"), results.get("smoothness")
    if isinstance(smooth, Smoothness) and isinstance(loss, float) and smooth.step_length > 0:
        h = smooth.radii
        risen = smooth.remainders + h * smooth.slope + h.square() / 2 * smooth.curvature
        at, rises = (h / smooth.step_length).tolist(), risen.tolist()
        slope = smooth.slope * smooth.step_length
        curvature, name = smooth.curvature * smooth.step_length**2, smooth.direction
    elif isinstance(step, Step) and math.isfinite(step.change) and math.isfinite(step.loss):
        at, rises, loss, name = [1.0], [step.change], step.loss, "the step"
        slope, curvature = step.slope, step.curvature
    else:
        return None
    measured = [(t, loss + r) for t, r in zip(at, rises, strict=True) if math.isfinite(loss + r)]
    if not (math.isfinite(slope) and math.isfinite(curvature) and measured):
        return None
    return _step_figure(loss, name, [(0.0, loss), *measured], slope, curvature)


def _step_figure(
    loss: float, name: str, measured: list[tuple[float, float]], slope: float, curvature: float
) -> Figure:
    far = max(BEYOND, *(t for t, _ in measured))
    t = torch.linspace(0, far, CURVE, dtype=torch.float64)
    predicted = loss + slope * t + curvature / 2 * t.square()
    series = (
        Marks("measured loss", "dots", [t for t, _ in measured], [y for _, y in measured]),
        Marks("quadratic prediction", "dashed", t.tolist(), predicted.tolist(), colour="c1"),
    )
    at_one = dict(measured).get(1.0, math.nan)
    promised = slope + curvature / 2
    told = f"The loss here is {loss:.4g}; a whole step is predicted to change it by {promised:.3g}"
    if math.isfinite(at_one):
        told += f" and changes it by {at_one - loss:.3g}"
    caption = (
        f"The mean loss along {name}, measured, and the parabola that slope and curvature at this "
        "point promise. Where they part, the quadratic model has ended."
    )
    return Figure(
        "step", f"Loss along {name}", caption, f"{told}.",
        Axis(f"multiples of {name}"), Axis("loss"), series, {name: 1.0}, _view(measured),
    )  # fmt: skip


def _view(measured: list[tuple[float, float]]) -> tuple[float, float] | None:
    """From here to where the loss has risen too far for its fall to be seen; None for all."""
    start = measured[0][1]
    fall = max(start - min(y for _, y in measured), 0.0)
    kept = [t for t, y in measured if y - start <= CLIMB * fall]
    end = max(BEYOND, *kept)
    return (0.0, end) if fall > 0 and end < max(t for t, _ in measured) else None


def as_json(found: Sequence[Figure]) -> str:
    """All figures of a page, as its script reads them; nothing in it can end the script."""
    plain = {figure.key: figure.plain() for figure in found}
    return json.dumps(plain, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _eigenvalue(tau: float) -> Axis:
    return Axis(f"eigenvalue (|λ| ≤ {tau:.0e} called zero)", "symlog", tau)


def _by_sign(rows: Sequence[Any]) -> list[tuple[str, str, list[Any]]]:
    """Bins below zero, around it and above, with a name and a colour for each."""
    kinds = (
        ("below zero", "c1", [row for row in rows if row[1] <= 0]),
        ("called zero", "grey", [row for row in rows if row[0] < 0 < row[1]]),
        ("above zero", "c0", [row for row in rows if row[0] >= 0]),
    )
    return [(name, colour, part) for name, colour, part in kinds if part]


def _bars(name: str, colour: str, rows: Sequence[Any]) -> Marks:
    starts, ends, counts = ([row[i] for row in rows] for i in range(3))
    return Marks(name, "bars", starts, counts, ends, colour=colour)


def _with(bars: Marks, low: list[float], high: list[float], unsure: list[bool]) -> Marks:
    return Marks(bars.name, "bars", bars.x, bars.y, bars.ends, low, high, unsure, bars.colour)


def _is_drawn(eigenvalues: torch.Tensor) -> bool:
    return bool(len(eigenvalues)) and bool(eigenvalues.isfinite().all())


def _first(results: Mapping[str, Any], kind: type) -> Any:
    return next((result for result in results.values() if isinstance(result, kind)), None)


def _short(value: float) -> float | None:
    """Seven digits; None where it is not finite."""
    return float(f"{value:.7g}") if math.isfinite(value) else None

"""What the curves of a run's page show: which quantities share a chart, thinned to what is seen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hesscope.results.history import History, Series
from hesscope.results.limits import is_adaptive, lambda_max_limit
from hesscope.results.words import called

POINTS, FEWEST = 24_000, 60  # of all curves of a page together, and of one at least
MOST_LAYERS, MOST_OTHERS = 6, 12  # curves in one chart, and charts of other quantities
WIDE = 30  # ratio from which a chart is logarithmic
LINE, DASHED, DOTS = "line", "dashed", "dots"


@dataclass(frozen=True)
class Curve:
    """A series with the name that a reader sees."""

    label: str
    series: Series
    style: str = LINE


@dataclass(frozen=True)
class Chart:
    """Curves over one axis of steps."""

    title: str
    caption: str
    curves: tuple[Curve, ...]

    @property
    def is_logarithmic(self) -> bool:
        """Whether all values are positive and the largest is far from the smallest."""
        values = [curve.series.finite().values for curve in self.curves]
        all_of_them = torch.cat(values) if values else torch.zeros(1, dtype=torch.float64)
        if not len(all_of_them):
            return False
        low, high = float(all_of_them.min()), float(all_of_them.max())
        return low > 0 and high > WIDE * low


@dataclass(frozen=True)
class _Row:
    """A chart of the table: quantities, under their names."""

    title: str
    caption: str
    quantities: dict[str, str]


ROWS = (
    _Row(
        "Loss",
        "Probe data are the fixed batch that is looked at.",
        {"train_loss": "training", "loss": "probe data", "held_out_loss": "held out"},
    ),
    _Row(
        "Sharpness",
        "λmax of the Hessian, a lower bound to rounding; dots are proofs from above.",
        {"lambda_max": "λmax", "lambda_max_upper": "at most"},
    ),
    _Row(
        "Step sharpness over its limit",
        "λmax(lr P⁻¹(H + weight decay)) over what the optimiser bears: above 1, steps grow.",
        {
            "sharpness_over_limit": "over its limit",
            "batch_sharpness_over_limit": "batch sharpness over 2/lr",
        },
    ),
    _Row(
        "Critical sharpness",
        "2/(lr s), s the multiple of the step at which the loss begins to rise; dots are the ends "
        "of its bracket.",
        {
            "critical_sharpness": "critical",
            "critical_sharpness_lower": "at least",
            "critical_sharpness_upper": "at most",
        },
    ),
    _Row(
        "Batch sharpness",
        "Curvature of random batches along their own gradients.",
        {"batch_sharpness": "batch sharpness"},
    ),
    _Row(
        "Gradient and step",
        "Norms: of the mean gradient of the probe data, its noise, the gradient that the step is "
        "made with, and the step.",
        {
            "gradient_norm": "gradient",
            "gradient_noise": "its noise",
            "training_gradient_norm": "training gradient",
            "update_norm": "step",
        },
    ),
    _Row(
        "Curvature along gradient and step",
        "g·Hg/g·g and d·Hd/d·d.",
        {"gradient_curvature": "gradient", "update_curvature": "step"},
    ),
    _Row(
        "Share in the top eigenvector",
        "Of the squared length of the gradient and the step.",
        {
            "gradient_in_top": "gradient",
            "update_in_top": "step",
            "gradient_in_outliers": "gradient, in the first ten",
            "update_in_outliers": "step, in the first ten",
        },
    ),
    _Row(
        "What a step does to the loss",
        "To that of the probe data: predicted by g·d + d·Hd/2; dots are measured.",
        {"predicted_change": "predicted", "measured_change": "measured"},
    ),
    _Row("Learning rate", "The largest of the parameter groups.", {"lr": "lr"}),
    _Row("Least eigenvalue", "An upper bound of λmin to rounding.", {"lambda_min": "λmin"}),
    _Row(
        "Condition number, at least",
        "λmax over the larger of |λmin| and the noise of the products.",
        {"condition_at_least": "at least"},
    ),
    _Row("Condition number", "Negative at a saddle.", {"condition": "λmax/λmin"}),
    _Row("Trace", "Of the Hessian, by random probes.", {"trace": "trace"}),
    _Row(
        "Share of negative eigenvalues",
        "Between these two, with 95 %.",
        {"negative_share": "at least", "negative_share_upper": "at most"},
    ),
    _Row(
        "Overlap with the checkpoint before",
        "Mean squared cosine of the principal angles between the spaces of these eigenvectors: 1 "
        "where nothing has turned. Dots are what it is at least, by its error.",
        {"overlap": "overlap", "overlap_lower": "at least"},
    ),
    _Row(
        "Largest principal angle",
        "In degrees, between the same two spaces.",
        {"largest_angle": "angle"},
    ),
)
DOTTED = (
    "lambda_max_upper",
    "measured_change",
    "overlap_lower",
    "critical_sharpness_lower",
    "critical_sharpness_upper",
)
MACHINERY = (
    "check_seconds",
    "check_gradients",
    "check_matvecs",
    "overlap_error",
    "step_sharpness",
    "step_sharpness_upper",
)
SUFFIXES = ("_age", "_stderr", "_matvecs")  # of numbers that say how another was made


def charts(history: History) -> list[Chart]:
    """The charts of a run: those of the table, the layers, and a chart for each other quantity."""
    tabled = [_tabled(history, row) for row in ROWS]
    found = [chart for chart in tabled if chart.curves]
    return [*_eigenvalues(history), *found, *_layers(history), *_others(history)]


def plain(chart: Chart, most: int) -> dict[str, Any]:
    """A chart as JSON, each curve with at most so many points."""
    thin = [(curve, thinned(curve.series, most)) for curve in chart.curves]
    return {
        "title": chart.title,
        "log": chart.is_logarithmic,
        "curves": [
            {
                "label": curve.label,
                "style": curve.style,
                "x": series.steps.tolist(),
                "y": [float(f"{value:.6g}") for value in series.values.tolist()],
            }
            for curve, series in thin
        ],
    }


def points(drawn: Sequence[Chart]) -> int:
    """How many points each curve of a page may have, so that the page stays small."""
    num = sum(len(chart.curves) for chart in drawn)
    return max(FEWEST, POINTS // max(num, 1))


def thinned(series: Series, most: int) -> Series:
    """At most so many of the finite points: the lowest and the highest of each stretch.

    >>> spike = torch.zeros(10_000)
    >>> spike[777] = 1.0
    >>> few = thinned(Series(torch.arange(10_000), spike), 100)
    >>> len(few), int(few.steps[few.values.argmax()])
    (100, 777)
    """
    known = series.finite()
    if len(known) <= most:
        return known
    kept: set[int] = set()
    start = 0
    for part in known.values.tensor_split(max(most // 2, 1)):
        kept |= {start + int(part.argmin()), start + int(part.argmax())}
        start += len(part)
    index = torch.tensor(sorted(kept), dtype=torch.int64)
    missing = most - len(index)
    if missing > 0:  # stretches whose lowest is their highest
        rest = torch.ones(len(known), dtype=torch.bool)
        rest[index] = False
        free = rest.nonzero()[:, 0]
        more = free[
            torch.linspace(0, len(free) - 1, min(missing, len(free)), dtype=torch.float64).long()
        ]
        index = torch.cat([index, more]).unique()
    return Series(known.steps[index], known.values[index])


def _tabled(history: History, row: _Row) -> Chart:
    known = {key: name for key, name in row.quantities.items() if len(history.get(key).finite())}
    curves = [
        Curve(name, history[key], DOTS if key in DOTTED else LINE) for key, name in known.items()
    ]
    caption = row.caption
    if "lambda_1" in history and row.title == "Sharpness":
        return Chart("", "", ())
    if "lambda_max" in known and len(lambda_max_limit(history)):
        curves.insert(1, Curve("limit", lambda_max_limit(history), DASHED))
        caption += " Above the dashed limit, steps grow."
    if "lambda_max" in known and is_adaptive(history):
        caption += " The optimiser is adaptive: its limit is one of the step sharpness, below."
    if "sharpness_over_limit" in known:
        ends = history["sharpness_over_limit"].steps[[0, -1]]
        curves.append(Curve("limit", Series(ends, torch.ones(2, dtype=torch.float64)), DASHED))
    return Chart(row.title, caption, tuple(curves))


def _eigenvalues(history: History) -> list[Chart]:
    """The eigenvalues of a series of checkpoints: the first ones, and the last."""
    known = [key for key in history if re.fullmatch(r"lambda_\d+", key)]
    shown = known if len(known) <= MOST_LAYERS else [*known[: MOST_LAYERS - 1], known[-1]]
    curves = [Curve(f"λ{key.removeprefix('lambda_')}", history[key]) for key in shown]
    left = f" {len(known) - len(shown)} between the last two." if len(known) > len(shown) else ""
    title, caption = "Eigenvalues", f"Of the Hessian, the most wanted first.{left}"
    return [Chart(title, caption, tuple(curves))] if curves else []


def _layers(history: History) -> list[Chart]:
    """A chart for each quantity that layers have, with the layers in which it is largest."""
    found = []
    for what, title in (("lambda_max", "λmax of the layers"), ("trace", "Trace of the layers")):
        keys = [k for k in history if k.startswith("layer/") and k.endswith(f"/{what}")]
        known = [key for key in keys if len(history[key].finite())]
        known.sort(key=lambda key: -float(history[key].finite().values.abs().max()))
        shown = known[:MOST_LAYERS]
        left = len(known) - len(shown)
        caption = f"The {len(shown)} largest; {left} others stay below." if left else "Each layer."
        curves = [Curve(key.split("/", 1)[1].rsplit("/", 1)[0], history[key]) for key in shown]
        if curves:
            found.append(Chart(title, caption, tuple(curves)))
    return found


def _others(history: History) -> list[Chart]:
    """A chart for each quantity that has none yet, up to a number."""
    taken = {key for row in ROWS for key in row.quantities} | set(MACHINERY)
    left = [
        key
        for key in history
        if key not in taken and not key.endswith(SUFFIXES)
        if not key.startswith(("layer/", "lambda_"))
        if len(history[key].finite())
    ]
    return [Chart(called(key), "", (Curve(key, history[key]),)) for key in left[:MOST_OTHERS]]

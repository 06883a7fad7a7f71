"""Fills the page of a run: verdicts on the axis of steps, curves, spectra over training, events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hesscope import plots
from hesscope.plots.style import detached
from hesscope.report import charts
from hesscope.report.page import plain_verdicts
from hesscope.report.stills import svg
from hesscope.report.template import plain, rendered, written
from hesscope.results import html
from hesscope.results.density import SpectralDensity
from hesscope.results.history import History
from hesscope.results.verdict import Verdict

MIDDLE = 1e-2  # of the largest |λ|: a run of some tens of products tells little below
MOST_SPECTRA = 200  # that a heat map of a page has
WITHOUT_SCRIPT = 150  # points of a curve that is seen without scripts
MOST_EVENTS = 100
LONGEST = 300  # characters of an event


def write_run(
    path: str | Path, title: str, history: History, verdicts: Sequence[Verdict] = ()
) -> Path:
    """Writes the page of a run and returns its path.

    One file below a megabyte that asks for nothing: curves to hover over (still
    lines without scripts), spectra over training where densities were measured, and the verdicts at
    the steps of which they speak.

    Args:
        path: of the page.
        title: its heading.
        history: of the run.
        verdicts: on the run. One whose evidence has `first_step` and `last_step` is shown on the
            axis of steps.

    Raises:
        RuntimeError: if the file cannot be written or jinja2 and matplotlib are missing.
    """
    drawn = charts.charts(history)
    most = charts.points(drawn)
    steps = history.steps
    span = (int(steps[0]), int(steps[-1])) if len(steps) else (0, 1)
    told = plain_verdicts(verdicts)
    both = zip(verdicts, told, strict=True)
    bands = [band for band in (_band(one, shown, span) for one, shown in both) if band]
    data = {
        "span": span,
        "charts": [charts.plain(chart, most) for chart in drawn],
        "marks": sorted({event.step for event in history.events})[:MOST_EVENTS],
        "bands": [[band["first"], band["last"]] for band in bands if band["finding"]],
    }
    page = rendered(
        "run.html",
        title=title,
        cost=_cost(history),
        verdicts=told,
        bands=bands,
        span=span,
        charts=[_shown(i, chart) for i, chart in enumerate(drawn)],
        spectra=_spectra(history),
        events=_events(history),
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        facts=_facts(history),
        provenance=history.facts.get("provenance", {}),
    )
    return written(path, page)


def _shown(place: int, chart: charts.Chart) -> dict[str, str]:
    """What of a chart stands in the page itself; a still picture where scripts do not run."""
    first = charts.thinned(chart.curves[0].series, WITHOUT_SCRIPT)
    ends = [f"{chart.curves[0].label}, step {int(step):,}" for step in first.steps[[0, -1]]]
    still = html.line(first.steps.tolist(), first.values.tolist(), (ends[0], ends[1]))
    last = [f"{curve.label} {curve.series.finite().last:.4g}" for curve in chart.curves]
    return {
        "key": f"curve-{place}",
        "anchor": f"curve-{place}",
        "title": chart.title,
        "caption": chart.caption,
        "still": still or "",
        "told": f"{chart.title}: at last {', '.join(last)}",
    }


def _band(verdict: Verdict, shown: dict[str, Any], span: tuple[int, int]) -> dict[str, Any]:
    """Where a verdict stands on the axis of steps, in percent; empty if it does not say."""
    ends = [verdict.evidence.get(key) for key in ("first_step", "last_step")]
    if ends[0] is None or ends[1] is None:
        return {}
    width = max(span[1] - span[0], 1)
    left, right = (min(max((end - span[0]) / width, 0.0), 1.0) for end in (ends[0], ends[1]))
    return {
        **{key: shown[key] for key in ("name", "anchor", "claim", "finding", "confidence")},
        "first": int(ends[0]),
        "last": int(ends[1]),
        "left": f"{100 * left:.2f}",
        "width": f"{100 * max(right - left, 0.0):.2f}",
    }


@detached()
def _spectra(history: History) -> str:
    """The heat map of the densities that were measured, evenly chosen where they are many."""
    found = {
        step: result
        for step, result in history.results.get("density", {}).items()
        if isinstance(result, SpectralDensity)
    }
    if not found:
        return ""
    steps = sorted(found)[:: -(-len(found) // MOST_SPECTRA)]
    largest = max(found[step].size for step in steps)
    ax = plots.spectra_over_training(
        steps, [found[step] for step in steps], tau=MIDDLE * largest if largest else None
    )
    return svg(ax, "spectra")


def _events(history: History) -> list[str]:
    """The latest, and how many there were before."""
    left = len(history.events) - MOST_EVENTS
    told = [str(event)[:LONGEST] for event in history.events[-MOST_EVENTS:]]
    return [f"{left} earlier events", *told] if left > 0 else told


def _cost(history: History) -> str:
    seconds = history.get("check_seconds").finite().values
    spent = history.get("check_matvecs").values
    if len(spent):
        return f"{len(spent)} checkpoints, {int(spent.sum()):,} matvecs in all"
    if not len(seconds):
        return f"{len(history)} steps are known"
    return (
        f"steps {int(history.steps[0]):,} to {history.last_step:,}; {len(seconds)} checks, "
        f"{float(seconds.sum()):.3g} s in all"
    )


def _facts(history: History) -> dict[str, str]:
    hidden = ("provenance", "format", "schema")
    return {key: plain(value) for key, value in history.facts.items() if key not in hidden}

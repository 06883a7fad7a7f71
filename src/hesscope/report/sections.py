"""Which tables a page has of which results, in which order, and what each is about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hesscope.report.template import anchors
from hesscope.results import html
from hesscope.results.density import SpectralDensity
from hesscope.results.estimate import Estimate
from hesscope.results.result import Columns
from hesscope.results.spectrum import Eigenpairs, Spectrum
from hesscope.results.tables import Table, columns_of, is_cell, tables
from hesscope.results.words import called

CELLS = 6_000  # of all tables of a page together, so that it stays small
FEWEST = 12  # rows that every table may have
NARROW = ["quantity", "value"]


@dataclass(frozen=True)
class Known:
    """What a page calls a quantity, and what it is about."""

    title: str
    about: str
    names: tuple[str, ...] = ()  # of the columns, where the result does not name them


MAIN = {  # in this order, with those that a user has named himself in between
    "exact_spectrum": Known("Exact spectrum", "All eigenvalues of the Hessian, one by one."),
    "spectrum": Known("Exact spectrum", "All eigenvalues of the Hessian, one by one."),
    "largest_eigenvalues": Known(
        "Largest eigenvalues", "Found without the matrix; the residual is the error of each."
    ),
    "outermost_eigenvalues": Known(
        "Outermost eigenvalues", "Both ends of the spectrum, found without the matrix."
    ),
    "eigenpairs": Known(
        "Outermost eigenvalues", "Both ends of the spectrum, found without the matrix."
    ),
    "eigenvalues": Known(
        "Eigenvalues", "Found without the matrix; the residual is the error of each."
    ),
    "density": Known(
        "Density of eigenvalues", "How many eigenvalues lie where, as intervals that hold."
    ),
    "conditioning": Known(
        "Condition", "How unequal the curvatures are: flat directions learn slowly."
    ),
    "condition": Known(
        "Condition", "How unequal the curvatures are: flat directions learn slowly."
    ),
    "outliers": Known("Outliers", "How many eigenvalues stand apart from the bulk of the others."),
    "step": Known("Next step", "What the step is predicted to do to the loss, and what it does."),
    "layers": Known("Layers", "Where the gradient goes, and which units and inputs take no part."),
    "smoothness": Known(
        "Smoothness", "How far the quadratic model of the loss holds along the next step."
    ),
    "sampling_error": Known(
        "Error bars from the data", "How much of an eigenvalue is the luck of these examples."
    ),
    "check": Known(
        "Can the second derivatives be trusted?",
        "What was tried out on loss, gradient and Hessian before anything was measured.",
    ),
}
OTHERS = {
    "curvature": Known("Curvature", "The ends of the spectrum, and what is certified beyond them."),
    "descent": Known("Slope", "How steep the loss is, how sure that is, and what a step gains."),
    "signals": Known(
        "Signals",
        "How large outputs and gradients are on their way through the network.",
        ("layer", "output, rms", "gradient, rms", "gain"),
    ),
    "time_signals": Known("Signals through time", "The gradient along the sequence."),
    "predictions": Known("Outputs", "What the network answers over a sample of the data."),
    "data_summary": Known("Data", "A sample of the data, as the model is given it."),
    "neighbours": Known("Labels", "Labels beside those of the nearest examples."),
    "trained": Known("What trains", "Which layers training moves."),
    "batch_stability": Known("Batches", "What the noise of random batches lets steps be."),
    "escape": Known("Way out", "The way down along negative curvature."),
    "convexity_probes": Known("Convexity", "The lowest curvature at other points."),
    "feature_ratio": Known("Features", "How fast features move beside the last layer."),
}


SINGLE = Known("Single numbers", "What is one number each.")


@dataclass(frozen=True)
class Section:
    """Tables under one heading, as HTML."""

    title: str
    anchor: str
    about: str
    tables: tuple[Shown, ...]


@dataclass(frozen=True)
class Shown:
    """A table, and what stands below it."""

    caption: str
    html: str
    notes: tuple[str, ...]
    narrow: bool  # names and values, which are read across


def sections(results: Mapping[str, Any]) -> tuple[list[Section], list[Section]]:
    """What a reader looks for, and everything else that was measured."""
    alone = {key for key, v in results.items() if is_cell(v) and not isinstance(v, Estimate)}
    several = {key: v for key, v in results.items() if key not in alone and not _is_all(v, results)}
    single = {called(key): value for key, value in results.items() if key in alone}
    order = sorted(several, key=lambda key: list(MAIN).index(key) if key in MAIN else -1)
    main = [key for key in order if key not in OTHERS]
    rest = [key for key in OTHERS if key in several]
    spectrum = next((r for r in results.values() if isinstance(r, Spectrum)), None)
    found = [(known(key), _tables(key, several[key], spectrum)) for key in (*main, *rest)]
    if single:
        found.insert(len(main), (SINGLE, [Table(SINGLE.title, columns_of(single))]))
    names = anchors((f"table {about.title}" for about, _ in found), ())
    most = _most_rows(inside for _, inside in found)
    made = [_section(*both, most) for both in zip(found, names, strict=True)]
    return made[: len(main)], made[len(main) :]


def shown(table: Table, most: int) -> Shown:
    """A table as HTML, with at most so many rows."""
    drawn = html.table(table.columns, table.caption, most=most)
    return Shown(table.caption, drawn, table.notes, list(table.columns) == NARROW)


def known(key: str) -> Known:
    """What a quantity is called, and what it is about; its own key where nobody has said."""
    words = key.replace("_", " ")
    return MAIN.get(key) or OTHERS.get(key) or Known(words[:1].upper() + words[1:], "")


def _is_all(value: Any, results: Mapping[str, Any]) -> bool:
    """Whether a density says no more than the spectrum beside it, which has taken its place."""
    sizes = [len(one) for one in results.values() if isinstance(one, Spectrum)]
    return isinstance(value, SpectralDensity) and len(value.outliers) == value.n in sizes


def _tables(key: str, result: Any, spectrum: Spectrum | None) -> list[Table]:
    about = known(key)
    found = tables(result, about.title)
    if about.names:
        columns = dict(zip(about.names, found[0].columns.values(), strict=True))
        found = [replace(found[0], columns=columns), *found[1:]]
    if isinstance(result, Eigenpairs):
        found[1] = replace(found[1], columns=_pairs(result, spectrum))
    if isinstance(result, Spectrum):
        ranks, falling = list(range(1, len(result) + 1)), result.eigenvalues.flip(0)
        found[1] = replace(found[1], columns={"rank": ranks, "eigenvalue": falling})
    return found


def _pairs(pairs: Eigenpairs, spectrum: Spectrum | None) -> Columns:
    """A row for each eigenvalue, beside the nearest exact one where all are known."""
    values, residuals = pairs.eigenvalues.tolist(), pairs.residuals.tolist()
    columns: dict[str, list[Any]] = {
        "rank": list(range(1, len(pairs) + 1)),
        "eigenvalue ± residual": [Estimate(*pair) for pair in zip(values, residuals, strict=True)],
        "residual": residuals,
    }
    if spectrum is not None and len(spectrum):
        exact = spectrum.eigenvalues
        nearest = [float(exact[(exact - value).abs().argmin()]) for value in values]
        columns["exact"] = [Estimate(value, spectrum.error) for value in nearest]
        columns["true error"] = [abs(a - b) for a, b in zip(values, nearest, strict=True)]
    columns["converged"] = pairs.converged.tolist()
    return columns


def _most_rows(found: Iterable[list[Table]]) -> int:
    """How many rows each table may have, so that all of them together keep to the cells."""
    sizes = [(_rows(table), len(table.columns)) for inside in found for table in inside]
    most = max((rows for rows, _ in sizes), default=0)
    while most > FEWEST and sum(min(rows, most) * width for rows, width in sizes) > CELLS:
        most = max(FEWEST, most * 3 // 4)
    return most


def _rows(table: Table) -> int:
    return max((len(column) for column in table.columns.values()), default=0)


def _section(found: tuple[Known, list[Table]], anchor: str, most: int) -> Section:
    about, inside = found
    made = tuple(shown(table, most) for table in inside)
    return Section(about.title, anchor, about.about, made)

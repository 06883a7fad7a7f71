"""Fills the page: verdicts first, then figures, tables, cost and provenance."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hesscope import plots
from hesscope.plots.style import detached
from hesscope.results.check import Check
from hesscope.results.conditioning import Conditioning
from hesscope.results.density import SpectralDensity
from hesscope.results.estimate import Estimate, plus_minus
from hesscope.results.headline import Headline
from hesscope.results.layers import LayerStatistics
from hesscope.results.outliers import Outliers
from hesscope.results.record import provenance
from hesscope.results.sampling import SamplingError
from hesscope.results.smoothness import Smoothness
from hesscope.results.spectrum import Eigenpairs, Spectrum
from hesscope.results.verdict import Verdict
from hesscope.system import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXTS = (  # shown as they print
    SpectralDensity,
    Conditioning,
    Estimate,
    LayerStatistics,
    Outliers,
    SamplingError,
    Smoothness,
)
_INK = "#010203"  # stands for the colour of the page's text until the figure is in the page


def write(
    path: str | Path,
    title: str,
    verdicts: Sequence[Verdict],
    results: Mapping[str, Any],
    cost: str,
    headline: Headline | None = None,
    overview: Mapping[str, str] | None = None,
) -> Path:
    """Writes the page and returns its path; a page that is there stays until this one is whole.

    `overview` says under the title what was looked at.

    Raises:
        RuntimeError: if the file cannot be written or jinja2 and matplotlib are missing.
    """
    html = rendered(
        "page.html",
        title=title,
        headline=headline,
        overview=overview or {},
        verdicts=[plain_verdict(verdict) for verdict in verdicts],
        figures=_figures(results),
        tables=_tables(results),
        spectrum=_spectrum(results),
        texts=_texts(results),
        check=next((r for r in results.values() if isinstance(r, Check)), None),
        loss=results.get("loss"),
        cost=cost,
        facts=_facts(results),
        provenance=provenance(),
    )
    return written(path, html)


def rendered(template: str, **parts: Any) -> str:
    """A template of this room, filled.

    Raises:
        RuntimeError: if jinja2 is missing.
    """
    try:
        import jinja2
    except ImportError as error:
        msg = "the report needs jinja2 and matplotlib: pip install 'hesscope[report]'."
        raise RuntimeError(msg) from error
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
    )
    return environment.get_template(template).render(**parts)


def written(path: str | Path, html: str) -> Path:
    """Writes a page and returns its path.

    Raises:
        RuntimeError: if it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, lambda file: file.write(html.encode("utf-8", "backslashreplace")))
    except OSError as error:
        msg = f"cannot write the report to {path}: {error.strerror}. Choose another place."
        raise RuntimeError(msg) from error
    return path


def _texts(results: Mapping[str, Any]) -> dict[str, str]:
    return {_title(key): str(r) for key, r in results.items() if isinstance(r, TEXTS)}


def _title(key: str) -> str:
    return key.replace("_", " ")


def plain_verdict(verdict: Verdict) -> dict[str, Any]:
    """What a page shows of a verdict."""
    return {
        "name": verdict.name,
        "anchor": re.sub(r"\W+", "-", verdict.name).strip("-"),
        "claim": verdict.claim,
        "confidence": verdict.confidence,
        "finding": verdict.finding,
        "advice": verdict.advice,
        "evidence": {name: f"{value:.6g}" for name, value in verdict.numbers().items()},
        "assumptions": verdict.assumptions,
        "source": verdict.source,
    }


@detached()
def _figures(results: Mapping[str, Any]) -> list[dict[str, str]]:
    figures = []
    spectrum, pairs = _first(results, Spectrum), _first(results, Eigenpairs)
    if spectrum is not None:
        caption = "All eigenvalues of the Hessian, exactly; both axes are logarithmic away from 0."
        if pairs is not None:
            caption += " The marks at the upper edge were found without the matrix."
        figures.append({"svg": svg(plots.spectrum_histogram(spectrum, pairs)), "caption": caption})
    density = _first(results, SpectralDensity)
    if density is not None and spectrum is None:
        caption = (
            "How many eigenvalues lie where: bars are the best single counts, lines the intervals "
            "that hold them. A long line near zero says that this many products cannot tell small "
            "eigenvalues from zero."
        )
        figures.append({"svg": svg(plots.density(density)), "caption": caption})
    for name, result in results.items():
        if isinstance(result, Eigenpairs) and spectrum is None:
            caption = (
                f"{_title(name)}: eigenvalues with the interval that certainly holds one "
                "(λ ± residual)."
            )
            figures.append({"svg": svg(plots.eigenvalues(result)), "caption": caption})
    return figures


def _tables(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        _table(name, result, _first(results, Spectrum))
        for name, result in results.items()
        if isinstance(result, Eigenpairs)
    ]


def _table(name: str, pairs: Eigenpairs, spectrum: Spectrum | None) -> dict[str, Any]:
    """Rows of an eigenvalue table, with the nearest exact value where the spectrum is known."""
    rows = []
    for i in range(len(pairs)):
        value, residual = float(pairs.eigenvalues[i]), float(pairs.residuals[i])
        row = {"rank": i + 1, "value": plus_minus(value, residual), "residual": f"{residual:.1e}"}
        row["converged"] = "yes" if bool(pairs.converged[i]) else "no"
        if spectrum is not None:
            nearest = spectrum.eigenvalues[(spectrum.eigenvalues - value).abs().argmin()]
            row["exact"] = f"{float(nearest):.8g}"
            row["error"] = f"{abs(float(nearest) - value):.1e}"
        rows.append(row)
    return {
        "name": _title(name),
        "rows": rows,
        "exact": spectrum is not None,
        "statement": pairs.certificate.statement,
        "notes": pairs.notes,
        "num_matvecs": pairs.num_matvecs,
    }


def _spectrum(results: Mapping[str, Any]) -> str:
    spectrum = _first(results, Spectrum)
    return "" if spectrum is None else str(spectrum)


def _facts(results: Mapping[str, Any]) -> dict[str, str]:
    for result in results.values():
        if isinstance(result, (Eigenpairs, Spectrum)):
            return {name: plain(value) for name, value in result.facts.items()}
    return {}


def plain(value: Any) -> str:
    """A fact as it is read."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _first(results: Mapping[str, Any], kind: type) -> Any:
    return next((result for result in results.values() if isinstance(result, kind)), None)


def svg(ax: Axes) -> str:
    """The figure as SVG that inherits the page's text colour and holds no outside reference."""
    import matplotlib as mpl  # an optional dependency
    from matplotlib.text import Text

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hesscope"}):
        legends = [part.get_legend() for part in ax.figure.axes]
        framed = [one for one in legends if one is not None and one.get_frame_on()]
        kept = {id(text) for one in framed for text in one.findobj(Text)}  # they stand on a box
        for text in ax.figure.findobj(Text):
            if id(text) not in kept:
                text.set(color=_INK)
        for part in ax.figure.axes:
            for spine in part.spines.values():
                spine.set_edgecolor(_INK)
            part.tick_params(colors=_INK)
        buffer = io.StringIO()
        ax.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})  # type: ignore[union-attr]
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    return re.sub(
        r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', drawn, count=1
    )

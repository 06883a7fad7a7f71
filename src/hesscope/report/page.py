"""Fills the page: verdicts first, then figures, tables, cost and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hesscope.report.figures import as_json, figures
from hesscope.report.sections import sections
from hesscope.report.stills import still
from hesscope.report.template import anchors, plain, rendered, written
from hesscope.results.headline import Headline
from hesscope.results.record import provenance
from hesscope.results.sharper import sharper
from hesscope.results.spectrum import Eigenpairs, Spectrum
from hesscope.results.verdict import Verdict


def write(
    path: str | Path,
    title: str,
    verdicts: Sequence[Verdict],
    results: Mapping[str, Any],
    cost: str,
    headline: Headline | None = None,
    overview: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the page and returns its path; a page that is there stays until this one is whole.

    `overview` says under the title what was looked at, and `facts` of the problem, its products and
    their provenance stand below: those of the first spectrum and of now, if not given. Where all
    eigenvalues are known, they take the place of intervals of the same numbers.

    Raises:
        RuntimeError: if the file cannot be written or jinja2 and matplotlib are missing.
    """
    results, told = sharper(results), _facts(results) if facts is None else facts
    main, others = sections(results)
    drawn = figures(results)
    html = rendered(
        "page.html",
        title=title,
        kicker="hesscope",
        headline=headline,
        overview=overview or {},
        verdicts=plain_verdicts(verdicts),
        figures=[
            {
                "key": one.key, "title": one.title, "caption": one.caption, "told": one.told,
                "anchor": number, "still": still(one, results),
            }
            for number, one in enumerate(drawn, 1)
        ],
        data=as_json(drawn),
        sections=main,
        others=others,
        cost=cost,
        facts={name: plain(value) for name, value in told.items() if name != "provenance"},
        provenance=told.get("provenance") or provenance(),
    )  # fmt: skip
    return written(path, html)


def plain_verdicts(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """What a page shows of verdicts, each at an address of its own."""
    names = anchors(verdict.name for verdict in verdicts)
    return [_plain_verdict(*both) for both in zip(verdicts, names, strict=True)]


def _plain_verdict(verdict: Verdict, anchor: str) -> dict[str, Any]:
    return {
        "name": verdict.name,
        "anchor": anchor,
        "claim": verdict.claim,
        "confidence": verdict.confidence,
        "finding": verdict.finding,
        "advice": verdict.advice,
        "evidence": {name: f"{value:.6g}" for name, value in verdict.numbers().items()},
        "assumptions": verdict.assumptions,
        "source": verdict.source,
    }


def _facts(results: Mapping[str, Any]) -> Mapping[str, Any]:
    found = [one.facts for one in results.values() if isinstance(one, (Eigenpairs, Spectrum))]
    return found[0] if found else {}

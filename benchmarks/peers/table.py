"""The report as Markdown: all rows, and the few numbers of a first page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.peers.measure import Row
from benchmarks.peers.work import WORKS

Report = dict[str, Any]
FIRST = (  # the works of a first page, in its words
    ("product-mlp", "Hessian-vector product, perceptron"),
    ("product-resnet", "the same, ResNet-20"),
    ("product-gpt2", "the same, GPT-2 2x128"),
    ("largest-mlp", "10 largest eigenvalues to 1e-3, perceptron"),
    ("largest-resnet", "the same, ResNet-20"),
    ("largest-40", "40 largest eigenvalues to 1e-3"),
    ("ragged", "λmax, the last batch of one example"),
    ("attention", "λmax, a stock transformer layer"),
    ("density", "spectral density, 100 products asked for"),
    ("trace", "trace to 1 %"),
)
COLUMNS = ("hesscope", "PyHessian", "curvlinops", "hessian-eigenthings", "Landscaper")


def heading(report: Report) -> str:
    """When, where and with which versions."""
    versions = ", ".join(f"{name} {found}" for name, found in report["versions"].items() if found)
    return f"{report['date']}, {report['machine']}, torch {report['torch']}: {versions}."


def full(report: Report) -> str:
    """Every row, a table for each piece of work."""
    parts = [heading(report)]
    for name, work in WORKS.items():
        own = [row for row in report["rows"] if row["work"] == name]
        if own:
            asked = "" if work.asked is None else f"; {error(work.asked)} is asked for"
            head = f"## {_upper(work.title)}\n\nError: {work.measure}{asked}."
            parts.append(f"{head}\n\n{_table(work.counts, own)}")
    return "\n\n".join(parts)


def _upper(title: str) -> str:
    """A title with a capital; Greek letters stay."""
    return title[0].upper() + title[1:] if title[0].isascii() else title


def _table(counts: str, rows: list[Row]) -> str:
    titles = (
        "tool", "call", counts, "time, gradients", "memory, gradients", "error",
        "it says of its error",
    )  # fmt: skip
    return _markdown(titles, [_line(row) for row in rows])


def _line(row: Row) -> list[str]:
    at = "" if row["at"] == "defaults" else f" ({row['at']})"
    call = f"`{row['call']}`{at}"
    if "failed" in row:
        return [row["tool"], call, "", "", "", cause(row), ""]
    says = row["says"]
    if row["stated"] is not None:
        says = f"{error(row['stated'])}: {says}"
    cells = span(row["products"]), amount(row["gradients"], 3), memory(row), judged(row), says
    return [row["tool"], call, *cells]


def compact(report: Report) -> str:
    """The first way of the tools that do most of the work: time in gradients, and the error."""
    lines = []
    for name, title in FIRST:
        first: dict[str, Row] = {}
        for row in report["rows"]:
            if row["work"] == name:
                first.setdefault(row["tool"], row)
        lines.append([title, *(_short(first.get(tool)) for tool in COLUMNS)])
    return f"{_markdown(('', *COLUMNS), lines)}\n\n{heading(report)}"


def _short(row: Row | None) -> str:
    if row is None:
        return "-"
    if "failed" in row:
        return "not installed" if row["failed"] == "not installed" else "raises"
    return f"{amount(row['gradients'], 3)}, error {judged(row)}"


def judged(row: Row) -> str:
    """The error; in bold where it is larger than what was asked for."""
    text = error(row["error"])
    return text if row["reached"] else f"**{text}**"


def error(value: float) -> str:
    """A relative error as a reader takes it in.

    >>> error(6.12e-5), error(1e-3), error(0.087), error(0.95), error(40.2)
    ('6.1e-5', '1e-3', '8.7 %', '95 %', '40-fold')
    """
    if value >= 2:
        return f"{value:.0f}-fold"
    if value >= 0.01:
        return f"{100 * value:.2g} %"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}" if value else "0"


def amount(value: float, digits: int) -> str:
    """A number with so many digits that count.

    >>> amount(1.693, 3), amount(3449.2, 3), amount(121.3, 2)
    ('1.69', '3,449', '121')
    """
    return f"{value:.{digits}g}" if value < 10**digits else f"{value:,.0f}"


def span(counts: Iterable[int]) -> str:
    """One number, or from the least to the most.

    >>> span([33, 31, 32]), span([20, 20])
    ('31 to 33', '20')
    """
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def memory(row: Row) -> str:
    """In gradients' peaks; "≥" where it was watched for a while only."""
    if row["memory"] is None:
        return "-"
    return f"{'' if row['memory_whole'] else '≥ '}{amount(row['memory'], 2)}"


def cause(row: Row) -> str:
    """Why there is no number, in one line that a table can hold."""
    text = row["failed"].replace("|", "/").replace("`", "'").replace("<", "(").replace(">", ")")
    return text if len(text) <= 110 else f"{text[:107].rstrip()}..."


def _markdown(titles: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    rows = [list(titles), *(list(line) for line in lines)]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

"""Tables, text and small figures as HTML that holds no script and asks for nothing from outside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from torch import Tensor

MOST_ROWS = 30  # of a table; what is left out is counted
WIDTH, HEIGHT, MARGIN = 480, 120, 18  # of a figure, in pixels


def table(columns: Mapping[str, Sequence[Any] | Tensor]) -> str:
    """A table with a row for each entry of the columns.

    >>> table({"λ": [1.5, 2.0]}).count("<tr>")
    3
    """
    rows = list(zip(*(listed(column) for column in columns.values()), strict=True))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:MOST_ROWS])
    left = len(rows) - MOST_ROWS
    rest = f"<p>and {left} more rows: to_pandas() has all</p>" if left > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def text(content: str) -> str:
    """Text as it prints."""
    return f"<pre>{escape(content)}</pre>"


def listed(column: Sequence[Any] | Tensor) -> list[Any]:
    """The entries of a column as Python's own numbers and text."""
    return column.tolist() if isinstance(column, Tensor) else list(column)


def bars(heights: Sequence[float], labels: tuple[str, str]) -> str:
    """A bar for each height, drawn as log(1 + height) so that one count beside many is seen.

    The labels stand below the first and the last bar.
    """
    sizes = [math.log1p(max(height, 0.0)) for height in heights]
    unit = (HEIGHT - 2 * MARGIN) / (max(sizes, default=0.0) or 1.0)
    width = (WIDTH - 2 * MARGIN) / max(len(sizes), 1)
    drawn = "".join(
        f'<rect x="{MARGIN + i * width:.1f}" y="{HEIGHT - MARGIN - unit * size:.1f}" '
        f'width="{0.9 * width:.1f}" height="{unit * size:.1f}"/>'
        for i, size in enumerate(sizes)
        if size > 0
    )
    return _svg(drawn, labels)


def line(x: Sequence[float], y: Sequence[float], labels: tuple[str, str]) -> str:
    """The line through the finite points (x, y), with labels below its ends."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(points) < 2:
        return ""
    left, width = _range([a for a, _ in points])
    low, height = _range([b for _, b in points])
    placed = " ".join(
        f"{MARGIN + (a - left) / width * (WIDTH - 2 * MARGIN):.1f},"
        f"{HEIGHT - MARGIN - (b - low) / height * (HEIGHT - 2 * MARGIN):.1f}"
        for a, b in points
    )
    return _svg(f'<polyline points="{placed}" fill="none" stroke="currentColor"/>', labels)


def _range(values: list[float]) -> tuple[float, float]:
    return min(values), (max(values) - min(values)) or 1.0


def _svg(content: str, labels: tuple[str, str]) -> str:
    left, right = map(escape, labels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" fill="currentColor" font-size="11">{content}'
        f'<text x="{MARGIN}" y="{HEIGHT - 4}">{left}</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 4}" text-anchor="end">{right}</text></svg>'
    )


def _cell(value: Any) -> str:
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f"<td>{escape(shown)}</td>"

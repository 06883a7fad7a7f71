"""Tables, text and small figures as HTML that holds no script and asks for nothing from outside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from torch import Tensor

from hesscope.results.tables import Cell, cell

MOST_ROWS = 30  # of a table; what is left out is counted
WIDTH, HEIGHT, MARGIN = 480, 120, 18  # of a figure, in pixels


def table(
    columns: Mapping[str, Sequence[Any] | Tensor],
    caption: str = "",
    notes: Sequence[str] = (),
    most: int = MOST_ROWS,
) -> str:
    """A table with a row for each entry of the columns.

    Columns of numbers have the class n, and their cells the value that was rounded; a first column
    of text heads the rows. Each of the notes is a paragraph below.

    >>> table({"λ": [1.5, 2.0]}).count("<tr>")
    3
    """
    cells = [[cell(value) for value in listed(column[:most])] for column in columns.values()]
    kinds = ["n" if all(one.is_number for one in column) else "" for column in cells]
    heading = bool(kinds) and not kinds[0] and len(kinds) > 1
    heads = "".join(map(_head, columns, kinds))
    body = "".join(_row(row, kinds, heading) for row in zip(*cells, strict=True))
    left = max(map(len, columns.values()), default=0) - most
    rest = [f"and {left} more rows: to_pandas() has all"] if left > 0 else []
    below = "".join(f"<p>{escape(text)}</p>" for text in (*rest, *notes))
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{above}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{below}"


def lines(content: str) -> str:
    """Each line of a text as a paragraph.

    >>> lines("a < b")
    '<p>a &lt; b</p>'
    """
    return "".join(f"<p>{escape(line.strip())}</p>" for line in content.splitlines())


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
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{left} to {right}" '
        f'fill="currentColor" font-size="11">{content}'
        f'<text x="{MARGIN}" y="{HEIGHT - 4}">{left}</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 4}" text-anchor="end">{right}</text></svg>'
    )


def _head(name: str, kind: str) -> str:
    return f'<th scope="col"{_class(kind)}>{escape(name)}</th>'


def _row(cells: Sequence[Cell], kinds: Sequence[str], heading: bool) -> str:
    first = f'<th scope="row"{_class("")}>{escape(cells[0].text)}</th>' if heading else ""
    rest = list(zip(cells, kinds, strict=True))[1 if heading else 0 :]
    return f"<tr>{first}{''.join(_cell(one, kind) for one, kind in rest)}</tr>"


def _cell(cell: Cell, kind: str) -> str:
    value = f' data-value="{cell.value!r}"' if cell.is_number else ""
    return f"<td{_class(kind)}{value}>{escape(cell.text)}</td>"


def _class(kind: str) -> str:
    """Numbers by a class; text on the left, which notebooks would put on the right."""
    return f' class="{kind}"' if kind else ' style="text-align:left"'

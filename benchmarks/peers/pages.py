"""Table and chart where readers look for them, between marks, never typed."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.peers import chart, table
from benchmarks.peers.table import Report

BEGIN = "<!-- made by a benchmark, not by hand: what stands from here -->"
END = "<!-- to here -->"
CHART = "docs/_static/peers.svg"
PAGES = {
    "README.md": table.compact,
    "docs/index.md": table.compact,
    "docs/peers.md": table.full,
}


def write(report: Report, root: Path) -> None:
    """Replaces what stands between the marks of each page, and draws the chart anew."""
    for name, made in PAGES.items():
        page = root / name
        page.write_text(replaced(page.read_text("utf-8"), made(report)), "utf-8")
    (root / CHART).write_text(chart.svg(report), "utf-8")


def replaced(text: str, new: str) -> str:
    """The text of a page with something new between its marks.

    Raises:
        ValueError: if it has not exactly one pair.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        msg = f"a page needs {BEGIN!r} and {END!r}, once each."
        raise ValueError(msg)
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n\n{new}\n\n{END}{after}"


def between(text: str) -> str:
    """What stands between the marks of a page."""
    found = re.search(f"{re.escape(BEGIN)}\n\n(.*)\n\n{re.escape(END)}", text, re.DOTALL)
    return found.group(1) if found else ""

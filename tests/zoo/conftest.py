"""What the zoo found: one JSON row a model and mode, and a table at the end."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.examine import ALL_MODES, MODES, Mode
from tests.zoo.verdict import VERDICTS, cause, is_wrong, mode


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--zoo-rows", metavar="FILE", help="write the zoo's rows to FILE, as JSON")
    parser.addoption("--zoo-all", action="store_true", help="all eight modes instead of four")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # rows of other processes come in their reports
        config.pluginmanager.register(_Rows(config.getoption("--zoo-rows", default=None)))


@pytest.fixture
def zoo_modes(request: pytest.FixtureRequest) -> list[Mode]:
    return ALL_MODES if request.config.getoption("--zoo-all", default=False) else MODES


class _Rows:
    """Writes the rows as they come, and what they amount to at the end."""

    def __init__(self, path: str | None) -> None:
        self.path, self.rows = path and Path(path), list[dict[str, Any]]()
        if self.path:
            self.path.write_text("", "utf-8")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = [value for key, value in report.user_properties if key == "zoo"]
        if report.when != "call" or not found:
            return
        self.rows += found
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in found)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.rows:
            terminalreporter.section("the zoo")
            for line in table(self.rows):
                terminalreporter.write_line(line)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Verdicts by mode, then what asks for a repair, model by model."""
    counts = Counter((mode(row), row["verdict"]) for row in rows)
    lines = ["".join(f"{title:>20s}" for title in ("", *VERDICTS))]
    for place in sorted({place for place, _ in counts}):
        lines.append(_numbers(place, [counts[place, verdict] for verdict in VERDICTS]))
    total = Counter(row["verdict"] for row in rows)
    lines.append(_numbers("all", [total[verdict] for verdict in VERDICTS]))
    modes = Counter(row["model"] for row in rows)
    wrong: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in rows:
        if is_wrong(row):
            wrong[row["verdict"], row["model"], cause(row)].append(mode(row))
    return [
        *lines,
        "",
        *(
            f"{verdict:16s} {model}: {cause} "
            f"({'every mode' if len(places) == modes[model] else ', '.join(places)})"
            for (verdict, model, cause), places in sorted(wrong.items())
        ),
    ]


def _numbers(title: str, numbers: list[int]) -> str:
    return f"{title:>20s}" + "".join(f"{number:20d}" for number in numbers)

"""The page of what can go wrong: docs/faults.md of faults.toml (`python -m tests.fault_table`)."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE, PAGE = ROOT / "docs/faults.toml", ROOT / "docs/faults.md"
HEAD = """# What can go wrong

Faults that were met in practice, what hesscope does about each, and the test that shows it. The
page is written by `python -m tests.fault_table` from `faults.toml`; a test sees that every test
named here exists. "The check" is `hs.check_problem`; its findings are in [checks](checks.md).

| | fault | what hesscope does | test |
|---|---|---|---|
"""


def rows() -> list[tuple[int, str, str, list[str]]]:
    return [tuple(row) for row in tomllib.loads(SOURCE.read_text("utf-8"))["rows"]]


def page() -> str:
    lines = []
    for number, fault, answer, tests in rows():
        shown = ", ".join(f"`{test}`" for test in tests) or "none"
        lines.append(f"| {number} | {fault} | {answer} | {shown} |")
    return HEAD + "\n".join(lines) + "\n"


def missing() -> list[str]:
    """Tests that are named and do not exist."""
    names: dict[str, set[str]] = {}
    wanted = [test for *_, tests in rows() for test in tests]
    for file, _, _name in (test.partition("::") for test in wanted):
        if file not in names:
            path = ROOT / "tests" / file
            body = ast.parse(path.read_text("utf-8")).body if path.is_file() else []
            names[file] = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    parts = [test.partition("::") for test in wanted]
    return [f"{file}::{name}" for file, _, name in parts if name not in names[file]]


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

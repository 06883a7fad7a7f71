"""The budgets of the house: short functions, short files."""

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCES = sorted((Path(__file__).parents[1] / "src").rglob("*.py"))
LONGEST_FUNCTION, MOST_FUNCTIONS, LONGEST_MODULE = 50, 30, 300


def code_lines(node: ast.AST, lines: list[str]) -> int:
    """Lines of a node that are neither blank, comment nor docstring."""
    documented: set[int] = set()
    for item in ast.walk(node):
        if isinstance(item, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            item
        ):
            first = item.body[0]
            documented |= set(range(first.lineno, first.end_lineno + 1))
    start, end = getattr(node, "lineno", 1), getattr(node, "end_lineno", len(lines))
    return sum(
        1
        for number in range(start, end + 1)
        if number not in documented
        and lines[number - 1].strip()
        and not lines[number - 1].strip().startswith("#")
    )


def functions() -> Iterator[tuple[str, int]]:
    for path in SOURCES:
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.name}:{node.name}", code_lines(node, text.split("\n"))


def test_no_function_is_long_and_nine_of_ten_are_short():
    sizes = dict(functions())
    assert len(sizes) > 300
    assert {name: size for name, size in sizes.items() if size > LONGEST_FUNCTION} == {}
    assert sorted(sizes.values())[int(0.9 * len(sizes))] <= MOST_FUNCTIONS


def test_no_module_is_long():
    sizes = {}
    for path in SOURCES:
        text = path.read_text("utf-8")
        sizes[path.name] = code_lines(ast.parse(text), text.split("\n"))
    assert {name: size for name, size in sizes.items() if size > LONGEST_MODULE} == {}

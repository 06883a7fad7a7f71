"""The house in numbers: `make house`, or `python -m tests.house SRC` for another tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)


@dataclass(frozen=True)
class File:
    """One module: where it stands, and what its lines are."""

    path: str  # relative to src/hesscope
    text: str

    @property
    def room(self) -> str:
        """The folder it stands in; a file at the top is a room of its own."""
        return self.path.split("/", maxsplit=1)[0].removesuffix(".py")

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @property
    def code_lines(self) -> int:
        return _code_lines(ast.parse(self.text), self.text.split("\n"))

    def functions(self) -> Iterator[tuple[str, int]]:
        """Each function by its path and qualified name, inner and async ones too, and its size."""
        lines = self.text.split("\n")
        for name, node in _functions(ast.parse(self.text), ""):
            yield f"{self.path}:{name}", _code_lines(node, lines)

    def constants(self) -> list[str]:
        """The UPPERCASE names that the module sets at its top level."""
        named = []
        for node in ast.parse(self.text).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            names = [item.id for target in targets for item in _names(target)]
            named += [name for name in names if name.isupper()]
        return named


def files(source: Path = SOURCE) -> list[File]:
    root = source / "hesscope"
    paths = sorted(root.rglob("*.py"))
    return [File(path.relative_to(root).as_posix(), path.read_text("utf-8")) for path in paths]


def quantile(sizes: list[int], share: float) -> int:
    return sorted(sizes)[int(share * (len(sizes) - 1))]


def _code_lines(node: ast.AST, lines: list[str]) -> int:
    """Lines of a node that are neither blank, comment nor docstring."""
    documented: set[int] = set()
    for item in ast.walk(node):
        if isinstance(item, DOCUMENTED) and ast.get_docstring(item):
            first = item.body[0]
            documented |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    start, end = getattr(node, "lineno", 1), getattr(node, "end_lineno", len(lines))
    kept = (lines[i - 1].strip() for i in range(start, end + 1) if i not in documented)
    return sum(1 for line in kept if line and not line.startswith("#"))


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, (ast.ClassDef, *FUNCTIONS)):
            name = f"{prefix}{child.name}."
        if isinstance(child, FUNCTIONS):
            yield name[:-1], child
        yield from _functions(child, name)


def _names(target: ast.expr) -> list[ast.Name]:
    return [item for item in ast.walk(target) if isinstance(item, ast.Name)]


def _rooms(house: list[File]) -> Iterator[str]:
    rooms = defaultdict(list)
    for file in house:
        rooms[file.room].append(file)
    total = sum(file.lines for file in house)
    sizes = {room: sum(file.lines for file in inside) for room, inside in rooms.items()}
    yield f"{'room':<14}{'files':>6}{'lines':>7}{'share':>7}"
    for room in sorted(rooms, key=lambda room: -sizes[room]):
        share = f"{100 * sizes[room] / total:.1f} %"
        yield f"{room:<14}{len(rooms[room]):>6}{sizes[room]:>7}{share:>7}"
    yield f"{'all':<14}{len(house):>6}{total:>7}"


def _figures(house: list[File], source: Path) -> Iterator[str]:
    sizes = {
        "function": [size for file in house for _, size in file.functions()],
        "file": [file.code_lines for file in house],
    }
    for what, found in sizes.items():
        p50, p90 = quantile(found, 0.5), quantile(found, 0.9)
        yield f"{len(found)} {what}s, code lines p50/p90/max: {p50}/{p90}/{max(found)}"
    constants = [name for file in house for name in file.constants()]
    noise = [name for name in constants if re.search("ROUNDING|NOISE", name)]
    finfo = sum("torch.finfo(" in file.text for file in house)
    yield f"{len(constants)} module constants, {len(noise)} of them ROUNDING or NOISE"
    yield f"{finfo} files with torch.finfo("
    code = "import hesscope; print(len(hesscope.__all__))"
    names = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    yield f"{names.stdout.strip()} public names"


def main(source: Path) -> None:
    house = files(source)
    print("\n".join([*_rooms(house), "", *_figures(house, source)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE)

"""Text for a terminal: names of the user's cannot move its cursor, nor forge a line."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import textwrap
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_COLUMN = re.compile(r"(?<=\S)  +(?=\S)|^ +(?=\S)")  # where text begins after spaces
OWN, IMPORTING = str(Path(__file__).parents[1]), str(Path(importlib.__file__).parent)
# All controls but the newline and the tab, and what turns the direction of writing.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str, names: Iterable[str] = ()) -> str:
    r"""The text with its control characters as escapes; of `names`, newlines too.

    >>> print(printable("layer \x1b[2J", ["a\nb"]), printable("a\nb: 1", ["a\nb"]))
    layer \x1b[2J a\nb: 1
    """
    for name in sorted({n for n in names if not n.isprintable()}, key=len, reverse=True):
        text = text.replace(name, _escaped(name))
    return _UNSAFE.sub(lambda found: _escaped(found[0]), text)


def wrapped(text: str, width: int) -> str:
    r"""The text in lines of at most so many characters, the rest of a line below its own beginning.

    Numbers, "name = value" with three spaces between them, stay whole. Rows of tables stay as they
    are: what belongs to one column would come below another.

    >>> print(wrapped("step size      lr 0.9 is too large\n" + 15 * " " + "a = 1   b = 2", 26))
    step size      lr 0.9 is
                   too large
                   a = 1
                   b = 2
    """
    return "\n".join(part for line in text.split("\n") for part in _broken(line, width))


def _broken(line: str, width: int) -> list[str]:
    """A line in pieces."""
    columns = [found.end() for found in _COLUMN.finditer(line)]
    numbers = line.count(" = ") > 1 and "   " in line.strip()
    if len(line) <= width or (len(columns) > 2 and not numbers):
        return [line]
    indent = columns[0] if columns and columns[0] <= width // 3 else len(line) - len(line.lstrip())
    glued = re.sub(r"(?<! ) (?! )", "\xa0", line[indent:]) if numbers else line[indent:]
    room = max(width - indent, 20)
    pieces = textwrap.wrap(glued, room, break_long_words=False, break_on_hyphens=False)
    if numbers:
        pieces = [re.sub(" +", "   ", piece).replace("\xa0", " ") for piece in pieces]
        pieces = [short for piece in pieces for short in (textwrap.wrap(piece, room) or [""])]
    return [line[:indent] + pieces[0], *(" " * indent + piece for piece in pieces[1:])]


process: int | None = None  # of several, one that leaves remarks to the first


def remark(text: str) -> None:
    """A line on standard error beside the result, if anybody reads it: nothing depends on it."""
    if process is None:
        write_error(text)


def write_error(text: str) -> None:
    """A line on standard error, whichever process says it."""
    if sys.stderr is not None:  # else print would write to standard output
        with contextlib.suppress(OSError, ValueError):
            print(printable(text), file=sys.stderr, flush=True)


def in_one_line(text: str) -> str:
    r"""The same in one line.

    >>> in_one_line("a sentence\n  of two lines")
    'a sentence of two lines'
    """
    return printable(" ".join(line.strip() for line in text.splitlines()))


def strings_in(plain: Any) -> Iterator[str]:
    """All text in plain data, keys too."""
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, dict):
        for key, value in plain.items():
            yield str(key)
            yield from strings_in(value)
    elif isinstance(plain, (list, tuple)):
        for value in plain:
            yield from strings_in(value)


def told(error: BaseException) -> str:
    """What an error says, and which line led to it: the last that is not hesscope's own.

    >>> told(ValueError("no such column."))
    'ValueError: no such column.'
    """
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith((OWN, IMPORTING, "<frozen"))]
    users = [f for f in theirs if "-packages" not in f.filename] or theirs
    says_it_all = isinstance(error, (ValueError, RuntimeError, ImportError))
    at = users[-1] if users else None if says_it_all or not frames else frames[-1]
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno})."
    said = f"{type(error).__name__}: {error}"
    if at is None:
        return f"{said.removesuffix('.')}."
    return f"{said} ({at.filename}, line {at.lineno})."


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

"""Text for a terminal: names of the user's cannot move its cursor, nor forge a line."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

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
    """What an error says, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}."


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

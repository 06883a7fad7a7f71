"""Which step of training a checkpoint is from, as the name of its file has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

WHOLE = re.compile(r"(?<![\d.])\d+(?![\d]*\.\d)")  # numbers, but no part of a decimal fraction
STEP = re.compile(r"(?:step|iteration|iter)s?[-_=. ]?(\d+)", re.IGNORECASE)
DIGITS = re.compile(r"(\d+)")
FOLDERS = 3  # above a file that may tell what its name does not


def natural(path: Path) -> tuple[tuple[str, int], ...]:
    """The key of the order in which people count: step-9 before step-10.

    >>> [p.name for p in sorted(map(Path, ["s10.pt", "s9.pt", "last.pt"]), key=natural)]
    ['last.pt', 's9.pt', 's10.pt']
    """
    pieces = DIGITS.split(str(path))
    texts, numbers = pieces[::2], [*pieces[1::2], "-1"]
    return tuple((text.casefold(), int(n)) for text, n in zip(texts, numbers, strict=True))


def steps_of(paths: Sequence[Path]) -> list[int | None]:
    """The step of each, None where a name has no number.

    It is the number after "step" or "iteration", where all have one. Else it is the last number of
    the name that is another one in each name, fractions such as a loss aside, or plainly the last.
    Of names without any number, that of the folder counts.

    >>> steps_of([Path("epoch=1-step=500-loss=0.3.ckpt"), Path("epoch=2-step=1000-loss=0.2.ckpt")])
    [500, 1000]
    >>> steps_of([Path("net_10_v1.pt"), Path("net_20_v1.pt")])
    [10, 20]
    >>> steps_of([Path("checkpoint-30/model.pt"), Path("checkpoint-40/model.pt")])
    [30, 40]
    """
    names = _telling(paths)
    named = [STEP.findall(name) for name in names]
    if names and all(named):
        return [int(found[-1]) for found in named]
    numbers = [[int(n) for n in WHOLE.findall(name)] for name in names]
    widths = {len(row) for row in numbers if row}
    if len(widths) == 1 and all(numbers):
        for column in reversed(list(zip(*numbers, strict=True))):
            if len(set(column)) == len(column):
                return list(column)
    return [row[-1] if row else None for row in numbers]


def _telling(paths: Sequence[Path]) -> list[str]:
    """The part of each path that tells the step: the name, or that of a folder above it."""
    for above in range(1 + FOLDERS):
        names = [_part(path, above) for path in paths]
        if any(map(DIGITS.search, names)) and (len(set(names)) > 1 or len(names) == 1):
            return names
    return [path.stem for path in paths]


def _part(path: Path, above: int) -> str:
    parts = (*path.parts[:-1], path.stem)
    return parts[-1 - above] if above < len(parts) else ""

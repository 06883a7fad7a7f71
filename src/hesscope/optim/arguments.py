"""What optimisers refuse when they are made."""

from __future__ import annotations

import math
from typing import Any


def check(name: str, value: Any, *, most: float = math.inf) -> float:
    """A finite number above zero and at most `most`.

    Raises:
        ValueError: if it is none.

    >>> check("lr", 0.1)
    0.1
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 < value <= most:
        bound = "" if most == math.inf else f" and at most {most:g}"
        msg = f"{name}={value!r}; give a finite number above 0{bound}."
        raise ValueError(msg)
    return float(value)


def check_count(name: str, value: Any, *, least: int = 1) -> int:
    """A whole number.

    Raises:
        ValueError: if it is none, or below the least.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        msg = f"{name}={value!r}; give a whole number, {least} or more."
        raise ValueError(msg)
    return value

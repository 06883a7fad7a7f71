"""Numbers and names as a reader takes them in: two digits, and names in quotes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hesscope.results.layers import listed

LARGEST = 1e6  # from here on a power of ten is shorter


def plain(value: float) -> str:
    """Two digits: 0.0046, 48, 260, 1,100, 3e+07.

    >>> plain(0.00462), plain(264.0), plain(1126.0), plain(3.3e7)
    ('0.0046', '260', '1,100', '3.3e+07')
    """
    if 100 <= abs(value) < LARGEST:
        return f"{float(f'{value:.2g}'):,.0f}"
    return f"{value:.2g}"


def steps(low: float, high: float | None = None) -> str:
    """A number of steps, or a range of them; below one it is one.

    >>> steps(0.3), steps(0.3, 3.0), steps(54.6, 28_180.0)
    ('1 step', '1 to 3 steps', '55 to 28,000 steps')
    """
    ends = [plain(max(value, 1.0)) for value in (low, low if high is None else high)]
    text = ends[0] if ends[0] == ends[1] else " to ".join(ends)
    return f"{text} step" if text == "1" else f"{text} steps"


def of_stable(over: float) -> str:
    """A learning rate beside the largest stable one.

    >>> of_stable(1.81), of_stable(0.4)
    ('1.8 times what is stable', '0.4 of what is stable')
    """
    return f"{plain(over)} {'times' if over > 1 else 'of'} what is stable"


def share(value: float) -> str:
    """A share in per cent; what is nearly nothing or nearly all keeps a digit, and is neither.

    >>> share(0.43), share(0.0032), share(0.0), share(0.9958), share(0.99999), share(1.0)
    ('43%', '0.3%', '0%', '99.5%', '99.9%', '100%')
    """
    if 0.995 <= value < 1:
        return f"{math.floor(1000 * value) / 10:g}%"
    return f"{100 * value:.0f}%" if value >= 0.01 or value == 0 else f"{100 * value:.1g}%"


def layer(name: str) -> str:
    """A layer by its name in quotes: "2" is a name like any other.

    >>> layer("2"), layer("")
    ('layer "2"', 'the inputs')
    """
    return f'layer "{name}"' if name else "the inputs"


def layers(names: Sequence[str]) -> str:
    """One layer or several, the first few by name.

    >>> layers(["2"]), layers(["2", "fc"])
    ('layer "2"', 'layers "2", "fc"')
    """
    if len(names) == 1:
        return layer(names[0])
    quoted = [f'"{name}"' for name in names]
    return f"layers {listed(quoted)}"


def among(low: float, high: float) -> str:
    """Whole numbers, exactly: how many of those that there are.

    >>> among(650.0, 650.0), among(1100.0, 1442.0)
    ('650', '1,100 to 1,442')
    """
    first, last = (f"{math.floor(value):,}" for value in (low, high))
    return first if first == last else f"{first} to {last}"

"""Cases of which each change runs some, and `make test-slow` all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def thinned(cases: Iterable[Any], every: int) -> list[Any]:
    """The cases for `pytest.mark.parametrize`; all but each so many-th of them are slow.

    >>> [getattr(case, "values", case) for case in thinned("abc", 2)]
    ['a', ('b',), 'c']
    """
    return [
        case if i % every == 0 else pytest.param(case, marks=pytest.mark.slow)
        for i, case in enumerate(cases)
    ]

"""Any result as plain JSON data, for scripts that read the command line's output."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import Tensor


def as_plain(result: Any) -> Any:
    """Dicts, lists, numbers and text; matrices are given by their shape, non-finite as text.

    >>> from hesscope.results.estimate import Interval
    >>> as_plain(Interval(0.0, math.inf))
    {'low': 0.0, 'high': 'inf', 'level': 1.0}
    """
    if isinstance(result, Tensor):
        return as_plain(result.tolist()) if result.ndim <= 1 else {"shape": list(result.shape)}
    if isinstance(result, float) and not math.isfinite(result):
        return repr(result)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {f.name: as_plain(getattr(result, f.name)) for f in dataclasses.fields(result)}
    if isinstance(result, dict):
        return {str(name): as_plain(item) for name, item in result.items()}
    if isinstance(result, (list, tuple)):
        return [as_plain(item) for item in result]
    return result

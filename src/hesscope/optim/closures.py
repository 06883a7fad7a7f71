"""The closure that `step` of every optimiser may be given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def evaluated(closure: Callable[[], Any] | None) -> Any:
    """The loss of the closure, which takes gradients although steps do not; None without one.

    >>> evaluated(None), evaluated(lambda: torch.is_grad_enabled())
    (None, True)
    """
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()

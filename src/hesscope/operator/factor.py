"""What may multiply an operator: one real number, however it is written."""

from __future__ import annotations

import math
from numbers import Complex, Real
from typing import Any

import numpy as np
from torch import Tensor


def as_factor(x: Any) -> float | None:
    """A real number, also of NumPy or as a tensor or array of one element, as a float; else None.

    Raises:
        TypeError: if x is a truth value, a complex number, or more than one number.
        ValueError: if x is NaN or infinite.

    >>> import torch
    >>> as_factor(2), as_factor(torch.tensor([0.5])), as_factor("2")
    (2.0, 0.5, None)
    """
    value = x
    if isinstance(x, (Tensor, np.ndarray)):
        if math.prod(x.shape) != 1:
            msg = (
                f"a factor of an operator is one number, not a {type(x).__name__} of shape "
                f"{tuple(x.shape)}; a product with vectors is A @ V."
            )
            raise TypeError(msg)
        value = x.detach().item() if isinstance(x, Tensor) else x.item()
    if isinstance(value, (bool, np.bool_)):
        msg = f"{value} is a truth value, and a factor of an operator is a number; give 1 or 0."
        raise TypeError(msg)
    if not isinstance(value, Real):
        if isinstance(value, Complex):
            msg = f"{value} times a symmetric operator is not real; give a real factor."
            raise TypeError(msg)
        return None
    factor = float(value)
    if not math.isfinite(factor):
        msg = f"{factor} is no factor of an operator; give a finite number."
        raise ValueError(msg)
    return factor

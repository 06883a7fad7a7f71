"""Modules that write out, in many operations, what is one function of torch with a short form here.

Hugging Face's `NewGELUActivation` (GPT-2, GPT-J and others) is GELU by tanh in eight operations,
each of which has a second derivative of its own. While a loss is built, such a module calls the
function of torch; afterwards, also after an error, it is what it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hesscope import rounding
from hesscope.autodiff.recomputed import recomputes

HOME = "transformers.activations"
NAME = "NewGELUActivation"

_compared: WeakSet[Any] = WeakSet()  # forward passes that were found to be GELU by tanh


@contextmanager
def called_as_one(model: nn.Module) -> Iterator[None]:
    """Inside, the modules of this model that are known to write out a function call it."""
    known = [m for m in model.modules() if _is_gelu(m)] if HOME in sys.modules else []
    try:
        for module in known:
            module.__dict__["forward"] = _gelu_of(module)
        yield
    finally:
        for module in known:
            module.__dict__.pop("forward", None)


def _gelu_of(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """GELU by tanh; the module's own form where a checkpoint will compute it again without us."""
    own = type(module).forward

    def forward(input: Tensor) -> Tensor:
        return own(module, input) if recomputes() else F.gelu(input, approximate="tanh")

    return forward


def _is_gelu(module: nn.Module) -> bool:
    """Whether it is the class that is known, unchanged, and gives GELU by tanh."""
    kind = type(module)
    if (kind.__module__, kind.__qualname__) != (HOME, NAME) or "forward" in module.__dict__:
        return False
    if kind.forward not in _compared:
        x = torch.linspace(-6, 6, 49, dtype=torch.float64)
        with torch.no_grad():
            apart = kind.forward(module, x) - F.gelu(x, approximate="tanh")
        if not float(apart.abs().max()) <= rounding.recomputed(x.dtype):
            return False
        _compared.add(kind.forward)
    return True

"""All that a measurement must leave behind untouched, as one comparable value."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def state_of(model: nn.Module) -> dict[str, Any]:
    """Bytes of parameters, buffers and gradients, identities, flags, and generator states."""
    parameters = dict(model.named_parameters())
    return {
        "parameters": {n: (id(p), _bytes(p), p.requires_grad) for n, p in parameters.items()},
        "gradients": {n: (id(p.grad), _bytes(p.grad)) for n, p in parameters.items()},
        "buffers": {n: (id(b), _bytes(b)) for n, b in model.named_buffers()},
        "training": {name: module.training for name, module in model.named_modules()},
        "torch": _bytes(torch.get_rng_state()),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002  the global one is looked at
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "math attention only": torch.backends.cuda.flash_sdp_enabled(),
        "dtype": torch.get_default_dtype(),
    }


def _bytes(tensor: Tensor | None) -> bytes | None:
    if tensor is None:
        return None
    return tensor.detach().clone().reshape(-1).view(torch.uint8).numpy().tobytes()

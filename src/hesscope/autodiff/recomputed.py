"""Whether what is saved for a backward pass is computed again there, as checkpointing does."""

from __future__ import annotations

import torch

_saving_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
TOLD = _saving_hooks is not None  # whether this torch tells of such hooks at all


def recomputes() -> bool:
    """Whether hooks on saved tensors are on.

    Checkpointing compares what forward and recomputation save, and recomputes where no mode is on.
    """
    return _saving_hooks is not None and _saving_hooks(True) is not None

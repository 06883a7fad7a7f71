"""What users bring: wrapped models, and batches in the shapes that loaders make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hesscope.problem.data import describe, num_examples

_WRAPPERS = {  # class name -> attribute that holds the model inside
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
}


def unwrap(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The model inside torch.compile, DDP and DataParallel, and the names of what was taken off.

    A compiled model has no second derivative, and an HVP through DDP is silently 109 % wrong.
    """
    taken = []
    while type(model).__name__ in _WRAPPERS:
        taken.append(type(model).__name__)
        model = getattr(model, _WRAPPERS[type(model).__name__])
    return model, tuple(taken)


def inputs_and_targets(content: Any) -> tuple[Any, Any]:
    """The default `unpack`: a batch is a pair (inputs, targets).

    Raises:
        ValueError: if the batch is anything else; the message shows what to pass as `unpack`.
    """
    if isinstance(content, (tuple, list)) and len(content) == 2:
        return content[0], content[1]
    if isinstance(content, Mapping):
        keys = ", ".join(map(repr, list(content)[:6]))
        example = 'unpack=lambda batch: (batch["input_ids"], batch["labels"])'
        what = f"a dict with keys {keys}"
    else:
        example = "unpack=lambda batch: (batch[0], batch[-1])"
        what = f"a {describe(content)}"
    msg = f"a batch is {what}, not a pair (inputs, targets). Say which is which: {example}."
    raise ValueError(msg)


def call_model(model: nn.Module, inputs: Any) -> Any:
    """The default `forward`: model(inputs)."""
    return model(inputs)


def count_targets(targets: Any, content: Any) -> float:
    """The default `count`: the number of targets, or of examples where targets are no tensor."""
    if isinstance(targets, Tensor) and targets.ndim > 0:
        return len(targets)
    return num_examples(content)

"""Padding rows of embeddings: autograd holds them fixed, and so must every other engine.

torch defines the gradient of an embedding's `padding_idx` row as zero, although the forward pass
looks it up. A direction that moves the row moves the loss and none of the gradient with it, and the
product is not symmetric. Here the lookup, and the lookup alone, sees the row as it was: a weight
that is tied to an output layer moves there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class padding_held(TorchFunctionMode):  # noqa: N801  used as a context manager
    """Inside, padding is looked up in rows that do not move.

    Args:
        rows: what each lookup finds there, call by call, from the `rows` of an earlier pass. None
            takes the rows as they are, without their derivative.
    """

    def __init__(self, rows: list[Tensor] | None = None) -> None:
        super().__init__()
        self.held = rows
        self.rows: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Calls `func`; what an embedding finds for padding is replaced."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is F.embedding:
            return self._with_held_row(result, *_embedding(*args, **kwargs))
        if func is torch.embedding:
            return self._with_held_row(result, *_torch_embedding(*args, **kwargs))
        return result

    def _with_held_row(self, result: Tensor, index: Tensor, weight: Tensor, padding: int) -> Tensor:
        if padding < 0:
            return result
        self.rows.append(weight[padding].detach())
        row = self.rows[-1] if self.held is None else self.held[len(self.rows) - 1]
        return torch.where((index == padding)[..., None], row, result)


def _embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: Any, **__: Any
) -> tuple[Tensor, Tensor, int]:
    padding = -1 if padding_idx is None else padding_idx % len(weight)
    return input, weight, padding


def _torch_embedding(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, *_: Any, **__: Any
) -> tuple[Tensor, Tensor, int]:
    return indices, weight, padding_idx

"""The small problem that faults are planted in: sixty examples in three batches.

The last feature of an example is its mark, 1 where a fault is planted, so that whatever picks
examples out keeps the fault with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs

NUM, WIDTH, BATCH = 60, 6, 20
Function = Callable[[Tensor, Tensor], Tensor]  # (features, mark of each example) -> features


def data(marked: Sequence[int] = (), num: int = NUM) -> tuple[Tensor, Tensor]:
    x = torch.randn(num, 5)
    x[:, 4] = 0.0
    x[list(marked), 4] = 1.0
    return x, torch.randint(0, 3, (num,))


class Planted(nn.Module):
    """A network with a function of its hidden features in the middle."""

    def __init__(self, function: Function | None = None, activation: type[nn.Module] = nn.Tanh):
        super().__init__()
        self.body, self.activation = nn.Linear(5, WIDTH), activation()
        self.middle, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.function = function or (lambda x, _: x)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.middle(self.activation(self.body(x)))
        return self.head(torch.tanh(self.function(hidden, x[:, 4:])))


def cast(content: Any, dtype: torch.dtype) -> Any:
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in content)


def problem(
    model: nn.Module,
    dtype: torch.dtype,
    *,
    loss: Callable[..., Tensor] = F.cross_entropy,
    marked: Sequence[int] = (),
    num: int = NUM,
    **options: Any,
) -> hs.Problem:
    options = {"batch_size": BATCH, **options}
    return hs.Problem(model.to(dtype), loss, cast(data(marked, num), dtype), **options)


def closure(
    model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], dtype: torch.dtype
) -> hs.Problem:
    x, y = cast(data(), dtype)
    batches = [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, NUM, BATCH)]
    return hs.Problem.from_closure(model.to(dtype), loss, batches)


def where_marked(bad: Callable[[Tensor], Tensor], good: Callable[[Tensor], Tensor]) -> Function:
    return lambda x, mark: torch.where(mark > 0, bad(x), good(x))

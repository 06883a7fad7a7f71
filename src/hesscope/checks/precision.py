"""In which precision a loss is really computed: that of its weakest step, not of the parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hesscope import rounding
from hesscope.problem.data import Batch
from hesscope.problem.problem import Problem


def weakest_dtype(problem: Problem, batch: Batch) -> torch.dtype:
    """The floating dtype with the fewest digits that the loss of this batch passes through.

    Half of the losses of transformers are computed in float32 whatever the model is in. Costs one
    forward pass, in which every operation is looked at.

    >>> import torch, hesscope as hs
    >>> p = hs.Problem.from_function(lambda t: t.float().square().sum(), torch.ones(2).double())
    >>> weakest_dtype(p, next(iter(p.batches)))
    torch.float32
    """
    with problem.evaluation() as e, _Weakest(problem.dtype) as seen:
        e.loss(batch)
    return seen.dtype


class _Weakest(TorchDispatchMode):
    """Notes the weakest floating dtype among the results of all operations inside."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.is_floating_point():
                self.dtype = max(self.dtype, value.dtype, key=rounding.eps)
        return out

"""In which precision a loss is really computed: that of its weakest step, not of the parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

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


class Noting(TorchFunctionMode):
    """Notes the floating dtype with the fewest digits among results that are differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.weakest = torch.float64

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Calls `func` and looks at what comes back."""
        out = func(*args, **(kwargs or {}))
        for value in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(value, Tensor) and value.is_floating_point() and value.requires_grad:
                self.weakest = max(self.weakest, value.dtype, key=rounding.eps)
        return out


class Lifted(Noting):
    """Inside, what the user's code casts to fewer digits is cast to float64.

    Half of the losses of transformers pass through float32 whatever the model is in, and
    differences of such a loss have no digits left that would tell a wrong second derivative.
    Constants in float32 (masks, class weights, data) are taken in float64 where they meet it. What
    is written in place stays as it is, and so do casts inside a backward pass, where no mode is on:
    `weakest` is the floating dtype with the fewest digits that a differentiated result still had.

    >>> import torch
    >>> with Lifted() as mode:
    ...     y = torch.ones(2, dtype=torch.float64).float() * 2
    >>> y.dtype, mode.weakest
    (torch.float64, torch.float64)
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Calls `func` with all dtypes and all tensors but those written to in float64."""
        name, kwargs = func.__name__, kwargs or {}
        if name in _AS_IT_IS:
            return func(*args, **kwargs)
        if name in _CASTS:
            return args[0].double()
        args = tuple(_wide(value) for value in args)
        kwargs = {key: _wide(value) for key, value in kwargs.items()}
        if not name.endswith("_") and _mixed([*args, *kwargs.values()]):
            args, kwargs = tree_map(_doubled, args), tree_map(_doubled, kwargs)
        return super().__torch_function__(func, types, args, kwargs)


_CASTS = {"float", "half", "bfloat16"}
_AS_IT_IS = {"__get__", "__set__", "view", "is_floating_point", "register_hook", "grad"}


def _wide(value: Any) -> Any:
    is_dtype = isinstance(value, torch.dtype) and value.is_floating_point
    return torch.float64 if is_dtype else value


def _mixed(values: list[Any]) -> bool:
    """Whether floating tensors of more than one dtype meet."""
    nested = any(isinstance(value, (list, tuple, dict)) for value in values)
    tensors = [v for v in (tree_leaves(values) if nested else values) if isinstance(v, Tensor)]
    return len({tensor.dtype for tensor in tensors if tensor.is_floating_point()}) > 1


def _doubled(value: Any) -> Any:
    is_floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if is_floating else value


def loss_tolerance(dtype: torch.dtype) -> float:
    """1e-9 in float64 and 1e-4 in float32, some thousand roundings; ten in half precision."""
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 10 * rounding.eps(dtype))

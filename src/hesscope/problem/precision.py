"""In which precision a loss is really computed: that of its weakest step, not of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from hesscope import rounding
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Closure, Evaluation
from hesscope.problem.examples import take

FEW = 4  # examples that tell which steps a loss takes


@dataclass
class Computed:
    """In which precision the loss of a problem is computed; seen once, and shared by its copies."""

    as_it_is: Closure  # the loss in the precision of the model
    _only: bool | None = None
    _weakest: dict[torch.dtype, torch.dtype] = field(default_factory=dict)  # by that of theta

    def only_as_it_is(self, evaluation: Callable[..., AbstractContextManager[Evaluation]]) -> bool:
        """Whether a model in half precision runs as it is and not on copies in float32."""
        if self._only is None:
            self._only = not _runs(evaluation(rounded=False)) and _runs(evaluation(rounded=True))
        return self._only

    def weakest(
        self, dtype: torch.dtype, evaluation: Callable[[], AbstractContextManager[Evaluation]]
    ) -> torch.dtype:
        """The dtype with the fewest digits between theta, which is in `dtype`, and the loss."""
        if dtype not in self._weakest:
            with evaluation() as e:
                self._weakest[dtype] = _weakest(e, e.batches.first, dtype)
        return self._weakest[dtype]


def _weakest(e: Evaluation, batch: Batch, start: torch.dtype) -> torch.dtype:
    """Of a few examples, which take little memory; of all where the model refuses a few."""
    try:
        with Weakest(start, e.leaves) as seen:
            e.loss(few_of(batch))
    except ValueError:
        with Weakest(start, e.leaves) as seen:
            e.loss(batch)
    return seen.dtype


def few_of(batch: Batch) -> Batch:
    """Some of its examples; all, where the batch is one item.

    Raises:
        ValueError: if they cannot be told apart.
    """
    few = take(batch.content, slice(0, FEW)) if not batch.whole else batch.content
    return replace(batch, content=few)


def _runs(evaluation: AbstractContextManager[Evaluation]) -> bool:
    with evaluation as e:
        try:
            e.loss(e.batches.first)
        except ValueError:  # what the user's code raises, described
            return False
    return True


class Weakest(TorchDispatchMode):
    """Notes the floating dtype with the fewest digits that operations give, of a `start` or weaker.

    Half of the losses of transformers are computed in float32 whatever the model is in. Given
    tensors, of what depends on them alone: masks, class weights and data are what they are, without
    an error that a derivative would see. Custom Functions are looked into.

    >>> import torch
    >>> theta = torch.ones(2).double()
    >>> with Weakest(theta.dtype, [theta]) as seen:
    ...     loss = theta.float().square().sum().double() + torch.ones(()).half()
    >>> seen.dtype
    torch.float32
    """

    def __init__(self, start: torch.dtype, tensors: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.dtype = start
        self._moved = None
        if tensors is not None:
            self._moved = WeakTensorKeyDictionary(dict.fromkeys(tensors, True))

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Counts what depends on these, too."""
        if self._moved is not None:
            self._moved.update(dict.fromkeys(tensors, True))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._counts((args, kwargs)):
            for value in tree_leaves(out):
                if isinstance(value, Tensor) and value.is_floating_point():
                    self.dtype = max(self.dtype, value.dtype, key=rounding.eps)
                    if self._moved is not None:
                        self._moved[value] = True
        return out

    def _counts(self, given: Any) -> bool:
        tensors = (leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor))
        return self._moved is None or any(tensor in self._moved for tensor in tensors)


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


_TENSORS = ("FloatTensor", "HalfTensor", "BFloat16Tensor")  # names of types, of old
_CASTS = {"float", "half", "bfloat16"}
_AS_IT_IS = {"__get__", "__set__", "view", "is_floating_point", "register_hook", "grad"}


def _wide(value: Any) -> Any:
    is_dtype = isinstance(value, torch.dtype) and value.is_floating_point
    is_name = isinstance(value, str) and value.endswith(_TENSORS)
    is_class = getattr(value, "__name__", "") in _TENSORS and not isinstance(value, Tensor)
    return torch.float64 if is_dtype or is_name or is_class else value


def _mixed(values: list[Any]) -> bool:
    """Whether floating tensors of more than one dtype meet."""
    nested = any(isinstance(value, (list, tuple, dict)) for value in values)
    tensors = [v for v in (tree_leaves(values) if nested else values) if isinstance(v, Tensor)]
    return len({tensor.dtype for tensor in tensors if tensor.is_floating_point()}) > 1


def _doubled(value: Any) -> Any:
    is_floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if is_floating else value

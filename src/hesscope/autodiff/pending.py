"""Logits of a language model that are not computed: their cross-entropy does without them.

A linear layer of very many outputs gives a tensor that remembers its factors. Views that leave the
classes in their place, and the shape, are answered without numbers; the mean or summed
cross-entropy is taken some items at a time; anything else, scaling, capping, a mask or another
loss, gets the logits themselves, by the layer's own operation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from hesscope.autodiff.arguments import full, plain
from hesscope.autodiff.language_head import head_loss

WIDE = 6  # outputs for each input, which no layer but the last of a language model has
LARGE = 2**22  # logits


class WrittenError(RuntimeError):
    """What logits are made of has been written to before they were computed."""


@dataclass
class _Product:
    """h Wᵀ as it was when it was asked for, or a view of another, which alone is computed."""

    h: Tensor
    weight: Tensor
    source: _Product | None = None
    view: Callable[[Tensor], Tensor] = torch.positive
    computed: Tensor | None = None

    def __post_init__(self) -> None:
        self._versions = self.h._version, self.weight._version

    def numbers(self) -> Tensor:
        """All of it.

        Raises:
            WrittenError: if it would not be what it was.
        """
        if self.source is not None:
            return self.view(self.source.numbers())
        if self.computed is None:
            self.refuse_written()
            with torch._C.DisableTorchFunction():
                self.computed = F.linear(self.h, self.weight)
        return self.computed

    def root(self) -> _Product:
        """What this is a view of, or a view of a view."""
        return self if self.source is None else self.source.root()

    def refuse_written(self) -> None:
        """Refuses factors that have other numbers by now.

        Raises:
            WrittenError: if so.
        """
        if (self.h._version, self.weight._version) != self._versions:
            msg = "the input or the weight of a linear layer is written to after its call"
            raise WrittenError(msg)


class Pending(Tensor):
    """Logits to be computed when they are asked for."""

    _product: _Product

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Answers what can be answered without numbers, and computes them for the rest."""
        kwargs = kwargs or {}
        if func in SHAPES:
            return super().__torch_function__(func, types, args, kwargs)
        if func in ANSWERS and args and isinstance(args[0], Pending):
            result = ANSWERS[func](*args, **kwargs)
            if result is not None:
                return result
        args, kwargs = tree_map_only(Pending, _numbers, (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # a class method, as torch asks for
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuses a call that has gone past torch's functions, where no graph would be recorded.

        Raises:
            RuntimeError: always.
        """
        msg = f"{func} meets logits that are pending"
        raise RuntimeError(msg)


def _of(product: _Product) -> Pending:
    h, weight = product.h, product.weight
    shape = (*h.shape[:-1], len(weight))
    result = Tensor._make_wrapper_subclass(Pending, shape, dtype=h.dtype, device=h.device)
    result._product = product
    return result


def _numbers(tensor: Pending) -> Tensor:
    return tensor._product.numbers()


def pending(input: Any, weight: Any, bias: Any = None) -> Pending | None:
    """The pending logits of a layer that looks like the head of a language model, or None."""
    if bias is not None or not plain(input, weight) or not full(input):
        return None
    if weight.ndim != 2 or input.ndim < 2 or input.shape[-1] != weight.shape[1]:
        return None
    outputs, inputs = weight.shape
    if outputs < WIDE * inputs or input.shape[:-1].numel() * outputs < LARGE:
        return None
    return _of(_Product(input, weight))


def _seen_as(of: Pending, h: Tensor, view: Callable[[Tensor], Tensor]) -> Pending:
    """A view, given that of h which goes with it."""
    return _of(_Product(h, of._product.weight, of._product, view))


def _reshape(self: Pending, *shape: Any) -> Pending | None:
    """A new shape whose last dimension is that of the classes, by name."""
    sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    if isinstance(sizes, torch.dtype) or sizes[-1] != self.shape[-1]:
        return None
    h = self._product.h
    return _seen_as(self, h.reshape(*sizes[:-1], h.shape[-1]), lambda t: t.reshape(*sizes))


def _flatten(self: Pending, start_dim: int = 0, end_dim: int = -1) -> Pending | None:
    last = end_dim % self.ndim
    if last == self.ndim - 1:
        return None
    h = self._product.h.flatten(start_dim, last)
    return _seen_as(self, h, lambda t: t.flatten(start_dim, last))


def _index(self: Pending, index: Any) -> Pending | None:
    """Slices of the dimensions before that of the classes."""
    parts = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(part, slice) or part is Ellipsis for part in parts):
        return None
    reaches = len(parts) == self.ndim or (Ellipsis in parts and parts[-1] is not Ellipsis)
    if reaches and parts[-1] != slice(None):
        return None
    return _seen_as(self, self._product.h[index], lambda t: t[index])


def _same(self: Pending) -> Pending:
    return self


def _float(self: Pending) -> Pending | None:
    return self if self.dtype == torch.float32 else None


def _cross_entropy(
    input: Pending,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor | None:
    """That of items with one class each, not weighted by class and not smoothed; else None."""
    unusual = weight is not None or size_average is not None or reduce is not None
    if unusual or label_smoothing or reduction not in ("mean", "sum") or input.ndim != 2:
        return None
    if type(target) is not Tensor or target.dtype != torch.int64 or target.device != input.device:
        return None
    product, root = input._product, input._product.root()
    if target.shape != input.shape[:1] or root.computed is not None:
        return None
    root.refuse_written()
    counted = target != ignore_index
    w = counted.to(input.dtype)
    w = w / w.sum() if reduction == "mean" else w
    return head_loss(product.h, product.weight, target.masked_fill(~counted, 0), w)


_ATTRIBUTES: list[Any] = [Tensor.shape, Tensor.dtype, Tensor.device, Tensor.ndim]
SHAPES = {
    *(attribute.__get__ for attribute in _ATTRIBUTES),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.__len__),
}
ANSWERS: dict[Any, Callable[..., Any]] = {
    Tensor.view: _reshape,
    Tensor.reshape: _reshape,
    Tensor.flatten: _flatten,
    torch.flatten: _flatten,
    Tensor.__getitem__: _index,
    Tensor.contiguous: _same,
    Tensor.float: _float,
    F.cross_entropy: _cross_entropy,
}

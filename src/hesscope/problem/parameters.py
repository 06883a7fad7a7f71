"""The vector of parameters: which tensors of a model it is made of, and where each one lies in it.

Tied parameters are one coordinate block, frozen ones are left out, and a forward pass can see
other tensors in the place of the model's own without touching them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

Selection = str | Sequence[str] | Callable[[str, Tensor], bool] | None


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the tensors that make up a parameter vector, in order."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, named: Mapping[str, Tensor]) -> Layout:
        """That of these tensors in this order."""
        return cls(tuple(named), tuple(tensor.shape for tensor in named.values()))

    @cached_property
    def n(self) -> int:
        """The length of the parameter vector."""
        return sum(self._sizes)

    @cached_property
    def _sizes(self) -> list[int]:
        return [shape.numel() for shape in self.shapes]

    def slices(self) -> dict[str, slice]:
        """Where each named tensor lies in the vector.

        >>> Layout(("w", "b"), (torch.Size([2, 3]), torch.Size([2]))).slices()
        {'w': slice(0, 6, None), 'b': slice(6, 8, None)}
        """
        slices, start = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            slices[name] = slice(start, start + shape.numel())
            start += shape.numel()
        return slices

    def coordinates(self, name: str) -> Tensor:
        """Which entries of the vector are those of a tensor, in the shape of the tensor.

        For parts of it: `H.submatrix(layout.coordinates("qkv.weight")[:d])` is the block of the
        Hessian that belongs to the first d rows of a weight, the queries of a fused one.

        Raises:
            ValueError: if no tensor has this name.

        >>> Layout(("w", "b"), (torch.Size([2, 3]), torch.Size([2]))).coordinates("w")[1]
        tensor([3, 4, 5])
        """
        places = self.slices()
        if name not in places:
            msg = f"no parameter is called {name!r}; there are {', '.join(self.names[:6])}, ..."
            raise ValueError(msg)
        shape = self.shapes[self.names.index(name)]
        return torch.arange(places[name].start, places[name].stop).reshape(shape)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector (n,) in the shapes of the tensors.

        Raises:
            ValueError: if the vector does not have length n.
        """
        if vector.shape != (self.n,):
            msg = (
                f"a vector of shape {tuple(vector.shape)} does not fit {self.n} parameters; "
                f"give a tensor of shape ({self.n},), such as problem.theta."
            )
            raise ValueError(msg)
        return [
            piece if len(shape) == 1 else piece.view(shape)
            for piece, shape in zip(vector.split(self._sizes), self.shapes, strict=True)
        ]


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """The entries of all tensors in one vector; sparse ones are made dense."""
    dense = (tensor.to_dense() if tensor.is_sparse else tensor for tensor in tensors)
    return torch.cat([tensor if tensor.ndim == 1 else tensor.reshape(-1) for tensor in dense])


def finite_vector(
    given: Tensor, n: int, dtype: torch.dtype, device: torch.device, name: str
) -> Tensor:
    """A copy of a parameter vector that a user gave, in this dtype and on this device.

    Raises:
        ValueError: if it is no finite vector of length n.
    """
    vector = torch.as_tensor(given, dtype=dtype, device=device)
    if vector.shape != (n,):
        msg = (
            f"{name} has shape {tuple(vector.shape)}; this problem has n={n} parameters, so "
            f"give a tensor of shape ({n},), such as problem.theta of a trained model."
        )
        raise ValueError(msg)
    vector = vector.detach().clone()
    bad = int((~vector.isfinite()).sum())
    if bad:
        msg = (
            f"{name} has {bad} entries that are NaN or infinite in {dtype}; that run has "
            "diverged: take an earlier checkpoint."
        )
        raise ValueError(msg)
    return vector


def select(named: Mapping[str, Tensor], selection: Selection) -> dict[str, Tensor]:
    """The trainable tensors whose names match `selection`, in the model's order.

    A selection is None (all), a name or glob such as "layers.3.*", a sequence of those, or a
    function (name, tensor) -> bool.

    Raises:
        ValueError: if nothing trainable is selected; the message names the reason.
    """
    _refuse_without_values(named)
    trainable = {name: tensor for name, tensor in named.items() if tensor.requires_grad}
    if not trainable:
        raise ValueError(_why_nothing_is_trainable(named))
    if isinstance(selection, Sequence) and not isinstance(selection, str):
        for one in selection:  # a misspelt name among good ones is a mistake, too
            select(named, one)
    chosen = {name: p for name, p in trainable.items() if _matches(name, p, selection)}
    if not chosen:
        frozen = [name for name, p in named.items() if _matches(name, p, selection)]
        hint = f" It matches {', '.join(frozen[:3])}, which is frozen." if frozen else ""
        msg = (
            f"{_describe(selection)} selects none of the {len(trainable)} trainable parameters."
            f"{hint} Names look like {', '.join(list(trainable)[:3])}; "
            "`model.named_parameters()` lists all of them."
        )
        raise ValueError(msg)
    _refuse_complex(chosen, len(trainable))
    _refuse_mixed(chosen)
    return chosen


@contextmanager
def substituted(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the model's forward pass sees `tensors` in place of its own of these names.

    Every place that holds a tied tensor is served. The model's own tensors are not written to.
    """
    if not tensors:
        yield
        return
    undo: list[tuple[dict[str, Any], str, Tensor | None]] = []
    flat_weights: list[tuple[nn.RNNBase, list[Tensor | None]]] = []
    try:
        for module, store, key, tensor in _places(model, tensors):
            undo.append((store, key, store[key]))
            store[key] = tensor
            if isinstance(module, nn.RNNBase) and key in module._flat_weights_names:
                flat_weights.append((module, module._flat_weights))
                module._flat_weights = list(module._flat_weights)
                module._flat_weights[module._flat_weights_names.index(key)] = tensor
        yield
    finally:
        for store, key, tensor in reversed(undo):
            store[key] = tensor
        for module, weights in reversed(flat_weights):
            module._flat_weights = weights


def _places(
    model: nn.Module, tensors: Mapping[str, Tensor]
) -> list[tuple[nn.Module, dict[str, Any], str, Tensor]]:
    """(module, its dict, key, new tensor) for each place that holds one of the named tensors."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    replacement = {id(named[name]): tensor for name, tensor in tensors.items()}
    places = []
    for module in model.modules():
        stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for store in stores:
            for key, tensor in store.items():
                if tensor is not None and id(tensor) in replacement:
                    places.append((module, store, key, replacement[id(tensor)]))
    return places


def _matches(name: str, tensor: Tensor, selection: Selection) -> bool:
    if selection is None:
        return True
    if isinstance(selection, str):
        return fnmatch.fnmatchcase(name, selection) or name.startswith(f"{selection}.")
    if callable(selection):
        return bool(selection(name, tensor))
    return any(_matches(name, tensor, one) for one in selection)


def _describe(selection: Selection) -> str:
    return f"params={selection!r}" if not callable(selection) else "the function given as params"


HALF = (torch.float16, torch.bfloat16)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that derivatives are taken in: float32 for half precision."""
    return torch.float32 if dtype in HALF else dtype


def _refuse_mixed(chosen: Mapping[str, Tensor]) -> None:
    """One vector theta has one dtype, to which half precision is raised, and one device.

    Raises:
        ValueError: if the parameters differ in one of them.
    """
    kinds = {f"{p.dtype} on {p.device}": name for name, p in chosen.items()}
    if len({(working_dtype(p.dtype), p.device) for p in chosen.values()}) > 1:
        examples = ", ".join(f"{name} is {kind}" for kind, name in list(kinds.items())[:3])
        msg = (
            f"the parameters differ in dtype or device: {examples}. Bring them together, for "
            "example with model.float() or model.to(device), or choose some of them with `params`."
        )
        raise ValueError(msg)


def refuse_compiled(model: nn.Module, names: Sequence[str]) -> None:
    """Refuses parameters that live in compiled code, where no others can stand in their place.

    Raises:
        ValueError: if one of these names is that of a parameter of a TorchScript module.
    """
    for path, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            continue
        inside = [name for name in names if not path or name.startswith(f"{path}.")]
        if inside:
            msg = (
                f"parameter {inside[0]} belongs to {path or 'a model'} in TorchScript "
                "(torch.jit.script or trace), whose code uses its own parameters and no others. "
                "Measure the Python model that it was compiled from, with these weights "
                "(model.load_state_dict(scripted.state_dict())), or leave its parameters out with "
                "`params`."
            )
            raise ValueError(msg)


def _refuse_complex(chosen: Mapping[str, Tensor], num: int) -> None:
    """Refuses complex parameters in theta; others may be.

    Raises:
        ValueError: if one is.
    """
    for name, tensor in chosen.items():
        if tensor.is_complex():
            msg = (
                f"parameter {name} is complex ({tensor.dtype}); hesscope needs real parameters. "
                "Store real and imaginary part as two real tensors (torch.view_as_real)."
            )
            msg += " Or leave it out with `params`." if num > 1 else ""
            raise ValueError(msg)


def _refuse_without_values(named: Mapping[str, Tensor]) -> None:
    """Refuses parameters of which no derivative can be taken.

    Raises:
        ValueError: if one has no values, or was made in inference mode.
    """
    for name, tensor in named.items():
        if isinstance(tensor, nn.parameter.UninitializedParameter) or tensor.is_meta:
            msg = (
                f"parameter {name} has no values yet (a lazy module, or the meta device). Call the "
                "model once on a batch, or load its weights."
            )
            raise ValueError(msg)
        if tensor.is_inference():
            msg = (
                f"parameter {name} was made inside torch.inference_mode() and can never be "
                "differentiated. Build or load the model outside of it."
            )
            raise ValueError(msg)


def _why_nothing_is_trainable(named: Mapping[str, Tensor]) -> str:
    if not named:
        return (
            "the model has no differentiable parameters: it has none at all, or its modules are "
            "quantised or scripted. Measure the floating-point model from which it was made."
        )
    integer = [name for name, tensor in named.items() if not tensor.is_floating_point()]
    if len(integer) == len(named):
        return (
            f"the model has no differentiable parameters: {', '.join(integer[:3])} hold integers "
            f"({named[integer[0]].dtype}). Measure the floating-point model from which they were "
            "made."
        )
    return (
        f"all {len(named)} parameters are frozen (requires_grad is False), for example "
        f"{next(iter(named))}. Call requires_grad_(True) on what you want to look at."
    )


def exactly(names: list[str]) -> Callable[[str, Tensor], bool]:
    """The selection of the parameters with these names."""
    inside = set(names)
    return lambda name, _: name in inside

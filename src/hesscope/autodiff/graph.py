"""The autograd graph of a gradient: what it keeps in memory, and where it cannot be followed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_BROKEN = {
    "torch::autograd::Error": (
        "once_differentiable",
        "its gradient passes through a Function marked @once_differentiable; autograd skips it, "
        "and the Hessian-vector product would be wrong without an error",
        "write its backward from differentiable operations and drop @once_differentiable",
    ),
    "torch::autograd::NotImplemented": (
        "not_differentiable_twice",
        "its gradient passes through an operation whose backward has no derivative",
        "replace the operation by its elementary form",
    ),
    "CheckpointFunctionBackward": (
        "reentrant_checkpoint",
        "it checkpoints activations with use_reentrant=True, and autograd leaves out what is "
        "inside without an error",
        "pass use_reentrant=False to torch.utils.checkpoint.checkpoint (Hugging Face: "
        "gradient_checkpointing_kwargs={'use_reentrant': False})",
    ),
    "WeightNormInterface": (
        "weight_norm",
        "it uses weight_norm, whose second derivative is wrong in torch 2.13 (30 to 50 %)",
        "take it off with torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') "
        "or torch.nn.utils.remove_weight_norm(layer)",
    ),
}


@dataclass(frozen=True)
class BrokenNode:
    """A node of the gradient's graph that cannot be differentiated again, or not rightly."""

    name: str
    cause: str
    cure: str
    after: str  # the node through which it was reached, which names the operation


def broken_nodes(gradient: Sequence[Tensor]) -> list[BrokenNode]:
    """All kinds of nodes behind a gradient through which second derivatives fail."""
    found: dict[str, BrokenNode] = {}
    for node, parent in _nodes(gradient):
        for mark, (name, cause, cure) in _BROKEN.items():
            if mark in node.name() and name not in found:
                found[name] = BrokenNode(name, cause, cure, parent)
    return list(found.values())


def node_names(gradient: Sequence[Tensor]) -> set[str]:
    """The names of all operations behind a gradient."""
    return {node.name() for node, _ in _nodes(gradient)}


def kept_bytes(gradient: Sequence[Tensor]) -> int:
    """Bytes of all distinct tensors that the gradient's graph keeps alive."""
    storages: dict[int, int] = {}
    for node, _ in _nodes(gradient):
        for tensor in _saved(node):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _nodes(gradient: Sequence[Tensor]) -> Iterator[tuple[Any, str]]:
    """Every node of the graph once, with the name of the node through which it was reached."""
    stack: list[tuple[Any, str]] = [(g.grad_fn, "") for g in gradient if g.grad_fn is not None]
    seen = set()
    while stack:
        node, parent = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node, parent
        stack.extend((n, node.name()) for n, _ in node.next_functions if n is not None)


def _saved(node: Any) -> Iterator[Tensor]:
    """The tensors that a node saves: C++ nodes name them _saved_..., Functions saved_tensors."""
    names = [name for name in dir(node) if name.startswith("_saved_") or name == "saved_tensors"]
    for name in names:
        value = getattr(node, name)
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, Tensor):
                yield item


KINKS = ("Relu", "Threshold", "MaxPool", "Abs", "Clamp", "Hardtanh", "Hardswish", "Topk")

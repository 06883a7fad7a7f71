"""The autograd graph of a gradient: what it keeps in memory, and where it cannot be followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from hesscope.autodiff.blame import nodes_behind, operation_that_breaks
from hesscope.autodiff.broken import (
    BY_NODE,
    HIDDEN_NORMALISATION,
    SCALED_GRADIENT,
    BrokenNode,
    UntrustworthyError,
)
from hesscope.autodiff.kernels import fast_second_derivatives
from hesscope.autodiff.written_out import called_as_one
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.layouts import plain_parts
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem


def broken_nodes(gradient: Sequence[Tensor], loss: Tensor | None = None) -> list[BrokenNode]:
    """All kinds of nodes behind a gradient through which second derivatives fail.

    Where torch drops the graph of the gradient, only the graph of the loss tells.
    """
    found: dict[str, BrokenNode] = {}
    of_loss = {node for node, _ in nodes_behind([] if loss is None else [loss])}
    for node, parent in nodes_behind([*gradient, *([] if loss is None else [loss])]):
        for name, cause, cure in _marks(node):
            if name not in found:
                place = _place(node, parent, loss, own=loss is None or node in of_loss)
                found[name] = BrokenNode(name, cause, cure, place)
    return list(found.values())


def _place(node: Any, parent: str, loss: Tensor | None, *, own: bool) -> str:
    """The operation of the loss that a broken node belongs to; else what it was reached from."""
    if own or loss is None:
        return str(node.name())
    return operation_that_breaks(loss, node.name()) or parent


def refuse_broken(gradient: Sequence[Tensor], loss: Tensor) -> None:
    """Refuses a graph through which second derivatives fail or are silently wrong.

    Raises:
        UntrustworthyError: naming the operation and what to do about it.
    """
    for node in broken_nodes(gradient, loss):
        raise UntrustworthyError(node)


def _marks(node: Any) -> Iterator[tuple[str, str, str]]:
    """Name, cause and cure of whatever is known to be wrong with the derivative of a node."""
    name = node.name()
    yield from (entry for mark, entry in BY_NODE.items() if mark in name)
    if "Embedding" in name and getattr(node, "_saved_scale_grad_by_freq", False):
        yield SCALED_GRADIENT


def node_names(gradient: Sequence[Tensor]) -> set[str]:
    """The names of all operations behind a gradient."""
    return {node.name() for node, _ in nodes_behind(gradient)}


def kept_bytes(gradient: Sequence[Tensor]) -> int:
    """Bytes of all distinct tensors that the gradient's graph keeps alive."""
    storages: dict[int, int] = {}
    for node, _ in nodes_behind(gradient):
        for tensor in _saved(node):
            for part in _dense_parts(tensor):
                storage = part.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _dense_parts(tensor: Tensor) -> list[Tensor]:
    """The strided tensors that a sparse one, or one inside a transform, is made of."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    if tensor._is_zerotensor():  # of forward mode: a zero without memory
        return []
    return plain_parts(tensor)


def _saved(node: Any) -> Iterator[Tensor]:
    """The tensors that a node saves: C++ nodes name them _saved_..., Functions saved_tensors."""
    names = [name for name in dir(node) if name.startswith("_saved_") or name == "saved_tensors"]
    for name in names:
        value = getattr(node, name)
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, Tensor):
                yield item


KINKS = ("Relu", "Threshold", "MaxPool", "Abs", "Clamp", "Hardtanh", "Hardswish", "Topk")


def gradient_graph(e: Evaluation, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss of one batch and its gradient with its graph.

    Raises:
        UntrustworthyError: if the loss uses what torch cannot differentiate rightly.
    """
    loss = differentiably(e.model, lambda: e.finite_loss(batch), lambda loss: loss, heads=True)
    return loss, e.derivatives(loss, create_graph=True)


def elementary_gradient(problem: Problem) -> Tensor | None:
    """The gradient with normalisations in elementary form where the loss takes derivatives itself.

    None where it does not, and the gradient is torch's own.
    """
    differentiated = False

    def of_batch(batch: Batch) -> Tensor:
        nonlocal differentiated
        with fast_second_derivatives(normalisations=True) as mode:
            loss = e.finite_loss(batch)
        differentiated = differentiated or mode.differentiated
        return flatten(e.derivatives(loss))

    with problem.evaluation() as e:
        gradient = e.mean(of_batch)
    return gradient if differentiated else None


Value = TypeVar("Value")


def differentiably(
    model: nn.Module,
    evaluate: Callable[[], Value],
    tensor_of: Callable[[Value], Tensor],
    *,
    heads: bool = False,
    missed: set[str] | None = None,
) -> Value:
    """What `evaluate` makes of the model, with a graph whose gradient has derivatives, right ones.

    A loss that is made of derivatives (of energies, of the solution of a differential equation)
    through LayerNorm, InstanceNorm or BatchNorm is evaluated again, with these in elementary form:
    torch holds their statistics fixed from the third derivative on. `heads` where a scalar is
    evaluated: the logits of a language model are then not computed all at once. `missed` is told
    of functions that were called in a way that has no kernel here.

    Raises:
        UntrustworthyError: if it uses what torch cannot differentiate rightly.
    """
    value, mode = _evaluated(model, evaluate, heads=heads)
    if mode.differentiated and normalises_derivatives([tensor_of(value)]):
        with fast_second_derivatives(normalisations=True) as mode:
            value = evaluate()
        if normalises_derivatives([tensor_of(value)]):
            raise UntrustworthyError(HIDDEN_NORMALISATION)
    if mode.wrong is not None:
        raise UntrustworthyError(mode.wrong)
    if missed is not None:
        missed |= mode.missed
    return value


def _evaluated(
    model: nn.Module, evaluate: Callable[[], Value], *, heads: bool
) -> tuple[Value, fast_second_derivatives]:
    """What `evaluate` returns, and the mode in which it did; heads computed at once on an error.

    What does not go through torch's functions, such as a Function of the loss, cannot take logits
    that are pending. An error of the loss's own comes again.
    """
    mode = fast_second_derivatives(heads=heads)
    try:
        with called_as_one(model), mode:
            return evaluate(), mode
    except Exception:
        if not mode.pending:
            raise
    return _evaluated(model, evaluate, heads=False)


def normalises_derivatives(values: Sequence[Tensor]) -> bool:
    """Whether the graph holds the backward pass of a normalisation, ready to run backwards."""
    return any("NormBackwardBackward" in name for name in node_names(values))


def variables_behind(loss: Tensor) -> set[int]:
    """The identities of the leaves that a graph ends in."""
    stack = [loss.grad_fn] if loss.grad_fn is not None else []
    seen, found = set(stack), {id(loss)}
    while stack:
        node = stack.pop()
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        new = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= new
        stack.extend(new)
    return found

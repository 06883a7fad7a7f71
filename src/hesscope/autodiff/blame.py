"""Whose fault is it: which operation breaks a gradient's graph, and which Functions are custom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor


def nodes_behind(outputs: Sequence[Tensor]) -> Iterator[tuple[Any, str]]:
    """Every node of the graph once, with the name of the node through which it was reached."""
    stack: list[tuple[Any, str]] = [(g.grad_fn, "") for g in outputs if g.grad_fn is not None]
    seen = set()
    while stack:
        node, parent = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node, parent
        stack.extend((n, node.name()) for n, _ in node.next_functions if n is not None)


def custom_functions(outputs: Sequence[Tensor]) -> list[str]:
    """The names of the autograd Functions in a graph that neither torch nor hesscope wrote."""
    classes = [getattr(type(node), "_forward_cls", None) for node, _ in nodes_behind(outputs)]
    foreign = [
        cls.__name__
        for cls in classes
        if cls is not None and cls.__module__.split(".")[0] not in ("torch", "hesscope")
    ]
    return list(dict.fromkeys(foreign))


def operation_that_breaks(loss: Tensor, mark: str) -> str | None:
    """The operation of a loss whose backward leaves a node of this name, or None.

    In the graph of a gradient such a node has the name of its kind, and is seen from what uses it:
    only while the loss is differentiated does it show where it comes from. Costs one gradient.
    """
    found: list[str] = []

    def watched(name: str) -> Callable[..., None]:
        def look(gradients: Sequence[Tensor | None], _: Any) -> None:
            made = [g.grad_fn.name() for g in gradients if g is not None and g.grad_fn is not None]
            if any(mark in node for node in made):
                found.append(name)

        return look

    nodes = [node for node, _ in nodes_behind([loss])]
    variables = [node.variable for node in nodes if hasattr(node, "variable")]
    with ExitStack() as stack:
        for node in nodes:
            stack.callback(node.register_hook(watched(node.name())).remove)
        torch.autograd.grad(loss, variables, create_graph=True, allow_unused=True)
    return found[0] if found else None

"""What users bring: wrapped models, and batches in the shapes that loaders make."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from hesscope.problem.contents import describe
from hesscope.problem.examples import num_examples
from hesscope.problem.parameters import HALF

_WRAPPERS = (  # where a class is at home, its name, and its attribute with the model inside
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("torch.nn.parallel", "DistributedDataParallel", "module"),
    ("torch.nn.parallel", "DataParallel", "module"),
    ("lightning.fabric.wrappers", "_FabricModule", "module"),
    ("lightning_fabric.wrappers", "_FabricModule", "module"),
    ("deepspeed.runtime.engine", "DeepSpeedEngine", "module"),
)
_MASK = "train_mask"


def unwrap(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The model inside torch.compile, DDP and the like, and the names of what was taken off.

    A compiled model has no second derivative, and an HVP through DDP is silently 109 % wrong.
    """
    taken: list[str] = []
    kinds = list(_wrappers())
    while True:
        inside = [getattr(model, name) for kind, name in kinds if isinstance(model, kind)]
        if not inside:
            return model, tuple(taken)
        taken.append(type(model).__name__)
        model = inside[0]


def _wrappers() -> Iterator[tuple[type, str]]:
    """The classes of wrappers that can be in use, for their modules are loaded."""
    for place, name, attribute in _WRAPPERS:
        kind = getattr(sys.modules.get(place), name, None)
        if isinstance(kind, type):
            yield kind, attribute


def refuse_no_module(model: Any) -> None:
    """Is the model one that torch can run?

    Raises:
        ValueError: if not.
    """
    if not isinstance(model, nn.Module):
        msg = (
            f"model is a {type(model).__name__}, not a torch.nn.Module. For a plain function "
            "of the parameters use Problem.from_function(f, theta)."
        )
        raise ValueError(msg)


def refuse_half_a_problem(loss_fn: Any, data: Any, unpack: Any, forward: Any) -> None:
    """Says what is missing where a Problem is given in part.

    Raises:
        ValueError: if there is no data, or `unpack` or `forward` without a loss.
    """
    if data is None:
        msg = (
            "no data was given: hs.Problem(model, loss_fn, data), or hs.Problem(model, data=data) "
            "for a model that computes its own loss."
        )
        raise ValueError(msg)
    if loss_fn is None and (unpack is not None or forward is not None):
        msg = (
            "unpack and forward say what loss_fn compares, but no loss_fn was given. Give it, or "
            "use hs.Problem.from_closure(model, lambda model, batch: ..., data)."
        )
        raise ValueError(msg)


def inputs_and_targets(content: Any) -> tuple[Any, Any]:
    """The default `unpack`: a batch is a pair (inputs, targets), or graphs with their targets y.

    Raises:
        ValueError: if the batch is anything else; the message shows what to pass as `unpack`.
    """
    if isinstance(content, (tuple, list)) and len(content) == 2:
        return content[0], content[1]
    if hasattr(content, "edge_index") and isinstance(getattr(content, "y", None), Tensor):
        return content, _targets_of(content)
    if isinstance(content, Mapping):
        keys = ", ".join(map(repr, list(content)[:6]))
        example = 'unpack=lambda batch: (batch["input_ids"], batch["labels"])'
        what = f"a dict with keys {keys}"
    else:
        example = "unpack=lambda batch: (batch[0], batch[-1])"
        what = f"a {describe(content)}"
    msg = f"a batch is {what}, not a pair (inputs, targets). Say which is which: {example}."
    raise ValueError(msg)


def _targets_of(graph: Any) -> Tensor:
    """The targets of a graph.

    Raises:
        ValueError: if only some of its nodes are to be learnt from.
    """
    if getattr(graph, _MASK, None) is None:
        return graph.y
    msg = (
        f"the graph has a {_MASK}, so its loss is that of some nodes only. Say so: "
        f"unpack=lambda g: (g, g.y[g.{_MASK}]), forward=lambda model, g: model(g)[g.{_MASK}]."
    )
    raise ValueError(msg)


def call_model(model: nn.Module, inputs: Any) -> Any:
    """The default `forward`: model(inputs), or what it names of a graph: x, edge_index, ..."""
    if hasattr(inputs, "edge_index"):
        named = inspect.signature(model.forward).parameters
        if "edge_index" in named:
            present = {name: getattr(inputs, name, None) for name in named}
            return model(**{name: part for name, part in present.items() if part is not None})
    return model(inputs)


def count_targets(targets: Any, content: Any) -> float:
    """The default `count`: the number of targets, or of examples where targets are no tensor."""
    if isinstance(targets, Tensor) and targets.ndim > 0:
        return len(targets)
    return num_examples(content)


def loss_in_single(loss_fn: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """A copy in float32 of a loss module with tensors (class weights) in half precision."""
    if not isinstance(loss_fn, nn.Module):
        return loss_fn
    tensors = [*loss_fn.parameters(), *loss_fn.buffers()]
    return copy.deepcopy(loss_fn).float() if any(t.dtype in HALF for t in tensors) else loss_fn


class OneTensor(nn.Module):
    """A parameter tensor as a model, for `Problem.from_function`."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.detach().clone())

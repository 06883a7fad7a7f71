"""Models that compute their own loss: of transformers, of Lightning, or any that hands out a loss.

A batch that is a mapping goes in by name, as trainers do it, a pair or list by position, and any
other object as it is. The loss is the output's `loss`, or the one scalar that comes out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

LABELS = "labels"
OTHER_NAMES = ("label", "label_ids")  # of labels, in data sets; trainers rename them
STEP = 1  # the index of a batch that a training step is told: at 0, many log pictures
SWITCHES = {"return_loss": True, "use_cache": False}  # caches are written in place
_LOGS = ("log", "log_dict")


def own_loss(model: nn.Module, content: Any) -> Tensor:
    """The loss that the model computes on a batch.

    Raises:
        ValueError: if what it gives holds no loss.
    """
    return loss_in(output_of(model, content), content)


def one_or_more(data: Any) -> Any:
    """The data as batches, where it is a single one: a mapping or a graph."""
    return [data] if isinstance(data, Mapping) or hasattr(data, "edge_index") else data


def output_of(model: nn.Module, content: Any) -> Any:
    """All that the model gives on a batch."""
    if has_training_step(model):
        return _training_step(model, content)
    if isinstance(content, Mapping):
        return model(**arguments(model, content))
    return model(*content) if type(content) in (list, tuple) else model(content)


def all_of_it(model: nn.Module, content: Any) -> tuple[Any, Any]:
    """What inference looks at in place of outputs and targets."""
    return output_of(model, content), content


def arguments(model: nn.Module, content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch goes to the model: the entries that its forward pass names.

    Where that takes any name, all but words. Labels are found under the names that data sets give
    them; losses are asked for and caches are not, where the model has a switch for that.
    """
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = dict(content)
    if LABELS not in given and (LABELS in parameters or takes_any):
        for name in OTHER_NAMES:
            if name in given and name not in parameters:
                given[LABELS] = given.pop(name)
                break
    for name, value in SWITCHES.items():
        if name in parameters:
            given.setdefault(name, value)
    return {k: v for k, v in given.items() if k in parameters or (takes_any and not _is_words(v))}


def loss_in(output: Any, content: Any) -> Tensor:
    """The loss inside of what a model gives.

    Raises:
        ValueError: if there is none, or more than one scalar.
    """
    if isinstance(output, Mapping) and output.get("loss") is not None:
        return output["loss"]
    if getattr(output, "loss", None) is not None:
        return output.loss
    parts = output if isinstance(output, (list, tuple)) else (output,)
    scalars = [part for part in parts if isinstance(part, Tensor) and part.ndim == 0]
    if len(scalars) == 1:
        return scalars[0]
    msg = (
        f"no loss_fn was given, and the model's output on a batch with {_entries(content)} is a "
        f"{type(output).__name__} without a loss. Put what the model computes its loss from into "
        "the batch (labels), or give the loss: hs.Problem(model, loss_fn, data)."
    )
    raise ValueError(msg)


def has_training_step(model: nn.Module) -> bool:
    """Whether it is a LightningModule, or is written like one."""
    return callable(getattr(model, "training_step", None))


def _training_step(model: nn.Module, content: Any) -> Any:
    """What `training_step` returns, while its logs go nowhere: there is no trainer.

    Raises:
        ValueError: if it steps its optimisers itself.
    """
    if not getattr(model, "automatic_optimization", True):
        msg = (
            f"{type(model).__name__} optimises by hand (automatic_optimization=False), so its "
            "training_step changes the parameters and has no single loss. Give the one to look "
            "at: hs.Problem.from_closure(model, lambda model, batch: ..., data)."
        )
        raise ValueError(msg)
    step: Callable[..., Any] = model.training_step  # type: ignore[assignment]
    places = [
        p
        for p in inspect.signature(step).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    with _without_logs(model):
        return step(content, STEP) if len(places) > 1 else step(content)


@contextmanager
def _without_logs(model: nn.Module) -> Iterator[None]:
    attributes = vars(model)
    before = {name: attributes[name] for name in _LOGS if name in attributes}
    attributes.update({name: _to_nowhere for name in _LOGS})
    try:
        yield
    finally:
        for name in _LOGS:
            attributes.pop(name, None)
        attributes.update(before)


def _to_nowhere(*_: Any, **__: Any) -> None:
    """What a log does without a trainer."""


def _is_words(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)


def _entries(content: Any) -> str:
    if isinstance(content, Mapping):
        return ", ".join(map(str, content))
    return f"the type {type(content).__name__}"

"""Rebuilds a torch optimiser from its saved state dict, never running code from a file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hesscope.problem.adapters import unwrap
from hesscope.problem.checkpoints import read_plain
from hesscope.steps.kind import Kind
from hesscope.steps.kinds import KINDS

_NESTED = ("optimizer", "optimizer_state_dict", "optimizer_states", "optim", "optimizer_state")
_BY_SCHEDULERS = {  # options that schedulers write into the groups of any optimiser
    "initial_lr", "max_lr", "min_lr", "base_lr", "max_momentum", "min_momentum", "base_momentum",
    "swa_lr", "params", "param_names",
}  # fmt: skip
_LATER = {"decoupled_weight_decay", "fused", "foreach", "maximize", "capturable", "differentiable"}
_REBUILT = tuple(kind for kind in KINDS if kind.signs)
_NAMES = ", ".join(kind.name for kind in _REBUILT)
_CURE = (
    "Rebuild the optimiser as in training, call its load_state_dict, and pass the optimiser itself."
)


def load_optimizer(model: nn.Module, path: str | Path) -> Optimizer:
    """The optimiser whose state dict a .pt file holds, alone or inside a checkpoint.

    A checkpoint is a dict with the state under "optimizer", "optimizer_state_dict" or
    "optimizer_states" (the first of a list). See `optimizer_from_state`.

    Raises:
        ValueError: if the file cannot be read without running code, or its optimiser not rebuilt.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"there is no optimiser file {path}; write torch.save(optimizer.state_dict(), path)."
        raise ValueError(msg)
    cure = "Save the state dict alone: torch.save(optimizer.state_dict(), path)."
    content = read_plain(path, cure, "optimiser")
    for key in _NESTED:
        if isinstance(content, Mapping) and key in content:
            content = content[key]
    if isinstance(content, (list, tuple)) and len(content) == 1:
        content = content[0]
    try:
        return optimizer_from_state(model, content)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from error


def optimizer_from_state(model: nn.Module, state_dict: Mapping[str, Any]) -> Optimizer:
    """A torch optimiser on the model's own parameters with the options and the state of a dict.

    A state dict names no class: SGD, ASGD, RMSprop, Adagrad, Adadelta, Adam, AdamW, NAdam, RAdam
    and Rprop are told apart by the options of their groups, and other options than theirs are
    refused. It numbers parameters: by the names that newer versions of torch record if the
    optimiser was given named parameters; else in the order of `model.parameters()`, all or those
    that require gradients, and the shapes of the state must agree. Model and dict are not changed.

    Raises:
        ValueError: if this is no state dict of those classes, or does not fit the model.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> saved = torch.optim.AdamW(model.parameters(), lr=0.01).state_dict()
    >>> type(optimizer_from_state(model, saved)).__name__
    'AdamW'
    """
    groups = _groups(state_dict)
    make = _class_of(groups)
    inner, _ = unwrap(model)
    chosen = _parameters(inner, groups)
    _refuse_misfit(chosen, groups, state_dict["state"])
    named = all("param_names" in group for group in groups)
    optimizer: Optimizer = make(
        [{"params": list(ps.items() if named else ps.values())} for ps in chosen], lr=0.0
    )
    try:
        optimizer.load_state_dict(copy.deepcopy(dict(state_dict)))  # torch would share its tensors
    except Exception as error:  # whatever a damaged state makes torch raise
        msg = f"torch cannot load this optimiser state ({type(error).__name__}: {error}). {_CURE}"
        raise ValueError(msg) from error
    return optimizer


def _groups(state_dict: Any) -> list[dict[str, Any]]:
    """The parameter groups of a state dict.

    Raises:
        ValueError: if it is something else.
    """
    whole = isinstance(state_dict, Mapping) and {"state", "param_groups"} <= state_dict.keys()
    groups: Any = state_dict["param_groups"] if whole else None
    usable = (
        isinstance(groups, list)
        and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups)
        and isinstance(state_dict["state"], Mapping)
        and all(isinstance(entry, Mapping) for entry in state_dict["state"].values())
    )
    numbers = [i for group in groups for i in group["params"]] if usable else []
    if not numbers or sorted(map(str, numbers)) != sorted(map(str, range(len(numbers)))):
        kind = type(state_dict).__name__
        msg = f"this {kind} is no optimiser state; save optimizer.state_dict()."
        raise ValueError(msg)
    return list(groups)


def _class_of(groups: list[dict[str, Any]]) -> Any:
    """The class of torch.optim whose options the groups hold.

    Raises:
        ValueError: if there is none, or the options leave it open.
    """
    options = set().union(*groups)
    looks = [kind for kind in _REBUILT if options.issuperset(kind.signs)]
    if not looks:
        msg = (
            f"the options {', '.join(sorted(options - _BY_SCHEDULERS - _LATER))} are not those of "
            f"{_NAMES} or AdamW. {_CURE}"
        )
        raise ValueError(msg)
    labels = {key for group in groups for key, value in group.items() if isinstance(value, str)}
    kind = min(looks, key=lambda one: len(_foreign(options, one)))
    foreign = sorted(_foreign(options, kind) - labels)
    if foreign:
        msg = (
            f"this looks like {kind.name}, but {', '.join(foreign[:3])} is no option of torch's: "
            f"another class may have saved it. {_CURE}"
        )
        raise ValueError(msg)
    return _adam(groups) if kind.optimizer is torch.optim.Adam else kind.optimizer


def _foreign(options: set[str], kind: Kind) -> set[str]:
    """The options that a kind does not have."""
    make: Any = kind.optimizer
    return (
        options
        - set(make([torch.zeros(1, dtype=torch.float32)], lr=0.0).defaults)
        - _BY_SCHEDULERS
        - _LATER
    )


def _adam(groups: list[dict[str, Any]]) -> Any:
    """Adam or AdamW, which differ in weight decay alone.

    Raises:
        ValueError: if the dict comes from a torch that did not record which one it is.
    """
    if all("decoupled_weight_decay" in group for group in groups):
        decoupled = {bool(group["decoupled_weight_decay"]) for group in groups}
        return torch.optim.AdamW if True in decoupled else torch.optim.Adam
    if any(group.get("weight_decay", 0) != 0 for group in groups):
        msg = (
            "this state was saved by a torch that does not tell Adam from AdamW, and its weight "
            f"decay is not zero. {_CURE}"
        )
        raise ValueError(msg)
    return torch.optim.Adam


def _parameters(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
    """For each group its parameters by name, in its order.

    Raises:
        ValueError: if the model does not have them.
    """
    own: dict[str, Tensor] = dict(model.named_parameters())
    if all("param_names" in group for group in groups):
        foreign = [name for group in groups for name in group["param_names"] if name not in own]
        if foreign:
            msg = f"the optimiser's {', '.join(foreign[:3])} are no parameters of this model."
            raise ValueError(msg)
        return [{name: own[name] for name in group["param_names"]} for group in groups]
    trainable = {name: p for name, p in own.items() if p.requires_grad}
    count = sum(len(group["params"]) for group in groups)
    if count not in (len(own), len(trainable)):
        msg = (
            f"the optimiser holds {count} parameters, the model {len(own)}, of which "
            f"{len(trainable)} are trainable. {_CURE}"
        )
        raise ValueError(msg)
    names = list(own if count == len(own) else trainable)
    return [{names[i]: own[names[i]] for i in group["params"]} for group in groups]


def _refuse_misfit(
    chosen: list[dict[str, Tensor]], groups: list[dict[str, Any]], state: Mapping[Any, Any]
) -> None:
    """The state of a parameter has its shape; several groups without names or shapes are open.

    Raises:
        ValueError: if the order of the parameters is not the one that was saved, or not known.
    """
    seen = True
    for group, parameters in zip(groups, chosen, strict=True):
        for index, (name, p) in zip(group["params"], parameters.items(), strict=True):
            tensors = [t for t in state.get(index, {}).values() if isinstance(t, Tensor) and t.ndim]
            seen = seen and (bool(tensors) or not p.requires_grad)
            if any(t.shape != p.shape for t in tensors):
                msg = (
                    f"the state number {index} has shape {tuple(tensors[0].shape)}, but {name} has "
                    f"{tuple(p.shape)}: the optimiser had its parameters in another order than "
                    f"model.parameters(). {_CURE}"
                )
                raise ValueError(msg)
    if len(groups) > 1 and not seen and not all("param_names" in group for group in groups):
        msg = (
            f"{len(groups)} parameter groups without names or state do not tell which parameters "
            f"they held. {_CURE}"
        )
        raise ValueError(msg)

"""Checkpoints as they are given: which step each is from, and a model moved to one."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hesscope.problem.checkpoint_names import natural, steps_of
from hesscope.problem.checkpoints import load_weights
from hesscope.system.contents import as_bytes

Saved = str | Path | Mapping[str, Any]
Checkpoints = Mapping[int, Saved] | Sequence[Saved]


def by_step(saved: Checkpoints, what: str) -> dict[int, Saved]:
    """What was saved by its step, ascending.

    Raises:
        ValueError: if a step is not known, or there twice.
    """
    if isinstance(saved, Mapping):
        named = [(int(step), one) for step, one in saved.items()]
    else:
        named = list(zip(_steps(saved, what), saved, strict=True))
    steps = [step for step, _ in named]
    if len(set(steps)) < len(steps) or not steps:
        msg = f"{what}: the steps {steps} are not one each; give them as {{step: path}}."
        raise ValueError(msg)
    return dict(sorted(named, key=lambda one: one[0]))


def in_order(saved: Checkpoints, what: str) -> tuple[dict[int, Saved], bool]:
    """Likewise; where names do not tell one step each, their places in natural order stand in.

    Returns:
        What was saved, by step or by place, and whether these are steps.

    Raises:
        ValueError: if there is nothing.
    """
    try:
        return by_step(saved, what), True
    except ValueError:
        if isinstance(saved, Mapping) or not saved:
            raise
    files = [Path(one) for one in saved if not isinstance(one, Mapping)]
    if len(files) == len(saved):
        ordered: list[Path] = sorted(files, key=natural)
        return dict(enumerate(ordered)), False
    return dict(enumerate(saved)), False


def name_of(step: int, saved: Saved) -> str:
    """What a reader calls a checkpoint."""
    return f"state dict {step}" if isinstance(saved, Mapping) else str(saved)


def move_to(model: nn.Module, saved: Saved) -> None:
    """Copies weights and buffers of a checkpoint into the model.

    Raises:
        ValueError: if it cannot be read, or does not fit.
    """
    if not isinstance(saved, Mapping):
        load_weights(model, saved)
        return
    try:
        model.load_state_dict(dict(saved))
    except RuntimeError as error:
        msg = f"a state dict of checkpoints does not fit the model: {error}"
        raise ValueError(msg) from error


def digest(model: nn.Module) -> str:
    """Of all weights and buffers, to tell whether a checkpoint is the one that was measured."""
    return _digest(model.state_dict())


def checksum(saved: Saved) -> int:
    """Of weights that are given, or of the name and size of a file, below 2^60."""
    if isinstance(saved, Mapping):
        return int(_digest(saved)[:15], 16)
    size = Path(saved).stat().st_size if Path(saved).is_file() else None
    return zlib.crc32(f"{saved} {size}".encode())


def _digest(weights: Mapping[str, Any]) -> str:
    content = hashlib.sha256()
    for name, tensor in weights.items():
        if isinstance(tensor, torch.Tensor):
            content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            content.update(as_bytes(tensor).numpy().data)
    return content.hexdigest()[:16]


def _steps(saved: Sequence[Saved], what: str) -> list[int]:
    """The steps in the names.

    Raises:
        ValueError: if one has none.
    """
    if any(isinstance(one, Mapping) for one in saved):
        msg = f"{what}: state dicts do not tell their steps; give them as {{step: state dict}}."
        raise ValueError(msg)
    paths = [Path(one) for one in saved if not isinstance(one, Mapping)]
    steps = steps_of(paths)
    found = [step for step in steps if step is not None]
    if len(found) < len(steps):
        path = paths[steps.index(None)]
        msg = f"{what}: {path} has no step in its name; give {{step: path}}."
        raise ValueError(msg)
    return found

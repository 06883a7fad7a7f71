"""Loads weights into a model from safetensors or from a state dict, never running code from it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hesscope.problem.adapters import unwrap
from hesscope.problem.checkpoint_names import steps_of

_PREFIXES = ("module.", "_orig_mod.", "model.")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_OTHER_STATES = ("optim", "sched", "scaler", "rng", "random_state", "training_args")
RECORD = "record.json"  # beside arrays that hesscope has saved
_NESTED = ("state_dict", "model_state_dict", "model")


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copies the weights of a .safetensors or a .pt/.pth/.bin state dict into the model.

    Nested dicts ("state_dict", "model") and the prefixes of wrappers are recognised.

    Raises:
        ValueError: if the file cannot be read without running code, or does not fit the model.
    """
    inner, _ = unwrap(model)
    inner.load_state_dict(read_weights(inner, path), strict=False)


def read_weights(model: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """The weights of such a file by the names that the model has for them; nothing is written.

    Raises:
        ValueError: as for `load_weights`.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"there is no weights file {path}; give a .safetensors or .pt file."
        raise ValueError(msg)
    weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    wanted = unwrap(model)[0].state_dict()
    weights = _without_prefix(weights, wanted)
    _refuse_misfit(weights, wanted, path)
    try:
        return {name: torch.empty_like(wanted[name]).copy_(t) for name, t in weights.items()}
    except Exception as error:  # tensors of a kind that the model's cannot take
        msg = f"{path} does not fit the model: {' '.join(str(error).split())}"
        raise ValueError(msg) from error


def checkpoints_in(folder: str | Path) -> list[Path]:
    """The files of weights in a folder of training and those right below it, by their steps.

    The step is the number in a file's name that `steps_of` finds, or in that of a folder in this
    one. States of optimisers and generators, and what hesscope itself has saved, are left out.

    Raises:
        ValueError: if there is none, if one tells no step, or if two tell the same.
    """
    folder = Path(folder)
    files = [path for path in (*folder.glob("*"), *folder.glob("*/*")) if _holds_weights(path)]
    steps = _steps(folder, files)
    unknown = [path for path, step in steps.items() if step is None]
    if not files or unknown or len(set(steps.values())) < len(files):
        cause = "holds no file of weights" if not files else f"has {len(files)} files of weights"
        if unknown:
            cause += f", of which {unknown[0].name} has no step in its name"
        elif files:
            cause += ", some of the same step"
        msg = f"{folder} {cause}; give the files themselves in the order of training."
        raise ValueError(msg)
    return sorted(files, key=lambda path: steps[path] or 0)


def _steps(folder: Path, files: list[Path]) -> dict[Path, int | None]:
    """By the names of files where these have numbers, and of their folders where they have none."""
    named = [path for path in files if any(map(str.isdigit, path.stem))]
    others = [path for path in files if path not in named]
    steps = dict(zip(named, steps_of([Path(path.name) for path in named]), strict=True))
    inside = steps_of([path.parent.relative_to(folder) for path in others])
    return {**steps, **dict(zip(others, inside, strict=True))}


def _holds_weights(path: Path) -> bool:
    other = path.stem.lower().startswith(_OTHER_STATES) or (path.parent / RECORD).exists()
    return path.is_file() and path.suffix.lower() in _SUFFIXES and not other


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # whatever damage makes the reader raise
        raise ValueError(_unreadable(path, "safetensors", error)) from error


def _unreadable(path: Path, what: str, error: Exception) -> str:
    cause = " ".join(str(error).split()) or type(error).__name__
    return f"{path} is not a readable {what} file ({cause}): truncated or damaged?"


def read_plain(path: Path, cure: str, what: str = "weights") -> Any:
    """What torch.save has put into a file, on the CPU, if it is data: nothing in it is executed.

    Raises:
        ValueError: if the file cannot be read without running code, or is damaged; says the cure.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        msg = f"{path} holds more than tensors, and loading it would run code from the file. {cure}"
        raise ValueError(msg) from error
    except Exception as error:  # whatever damage makes the reader raise
        raise ValueError(_unreadable(path, what, error)) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    content = read_plain(
        path,
        "Save the state dict alone: torch.save(model.state_dict(), path), or use safetensors.",
    )
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(t, Tensor) for name, t in content.items()
    ):
        msg = f"{path} holds a {type(content).__name__}, not a dict of tensors; save a state dict."
        raise ValueError(msg)
    return dict(content)


def _without_prefix(weights: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if weights and not wanted.keys() & weights.keys():
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _refuse_misfit(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """Every tensor of the model must be there with its shape; tied names count once.

    Raises:
        ValueError: naming what is missing, misshaped or unknown.
    """
    shared = {tensor.data_ptr() for name, tensor in wanted.items() if name in weights}
    missing = [n for n, t in wanted.items() if n not in weights and t.data_ptr() not in shared]
    misshaped = [n for n, t in weights.items() if n in wanted and t.shape != wanted[n].shape]
    foreign = [name for name in weights if name not in wanted]
    faults = [
        f"{word} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for word, names in (
            ("lacks", missing),
            ("has other shapes for", misshaped),
            ("has unknown", foreign),
        )
        if names
    ]
    if faults:
        msg = f"{path} does not fit the model: it {'; it '.join(faults)}."
        raise ValueError(msg)

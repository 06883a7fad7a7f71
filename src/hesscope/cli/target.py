"""Finds the user's function behind FILE.py:FUNCTION or MODULE:FUNCTION and calls it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from hesscope.problem.problem import Problem


def load_problem(target: str) -> Problem:
    """The Problem that the target's function returns, or that its model and data make.

    Raises:
        ValueError: if the target names nothing that can be called, or it returns something else.
        RuntimeError: if the function raises; the message ends with the place.
    """
    function = _function(target)
    try:
        problem = _problem_of(function())
    except Exception as error:
        msg = f"{target} raises {_told(error)}"
        raise RuntimeError(msg) from error
    if not isinstance(problem, Problem):
        msg = (
            f"{target} returns a {type(problem).__name__}; it has to return a hesscope.Problem, "
            "such as hs.Problem(model, loss_fn, loader)."
        )
        raise ValueError(msg)
    return problem


def _problem_of(returned: Any) -> Any:
    """The problem of a pair (model, data) or triple (model, loss_fn, data); else what came."""
    parts = returned if isinstance(returned, tuple) else ()
    if len(parts) not in (2, 3) or not isinstance(parts[0], nn.Module):
        return returned
    return Problem(parts[0], data=parts[1]) if len(parts) == 2 else Problem(*parts)


def _function(target: str) -> Callable[[], Any]:
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        msg = f"target {target!r} is not FILE.py:FUNCTION or MODULE:FUNCTION."
        raise ValueError(msg)
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    function = getattr(module, name, None)
    if not callable(function):
        known = [
            n
            for n, f in vars(module).items()
            if callable(f) and getattr(f, "__module__", None) == module.__name__
        ]
        msg = f"{place} has no function {name!r}; it defines {', '.join(known) or 'none'}."
        raise ValueError(msg)
    return function


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        msg = f"there is no file {path} (looked from {Path.cwd()})."
        raise ValueError(msg)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # the name ends in .py
    loader = spec.loader
    assert loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # as `python FILE.py` would
    sys.modules[path.stem] = module
    _imported(lambda: loader.exec_module(module), str(path))
    return module


def _from_name(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    return _imported(lambda: importlib.import_module(name), name)


def _imported(load: Callable[[], Any], place: str) -> Any:
    try:
        return load()
    except Exception as error:
        msg = f"{place} cannot be imported: {_told(error)}"
        raise ValueError(msg) from error


def _told(error: Exception) -> str:
    """What an error of the user's code says, and where it was raised."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})."

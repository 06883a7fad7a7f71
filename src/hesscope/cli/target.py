"""Finds the user's function behind FILE.py:FUNCTION or MODULE:FUNCTION and calls it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from hesscope.cli.words import told
from hesscope.problem.problem import Problem
from hesscope.system import worktree

# What hesscope imports later on, and the ends of folders with what is installed.
NEEDED = ("numpy", "rich.progress", "safetensors.torch", "scipy", "jinja2", "matplotlib")
INSTALLED = ("site-packages", "dist-packages")


def load_problem(target: str) -> Problem:
    """The Problem that the target's function returns, or that its model and data make.

    Raises:
        ValueError: if the target names nothing that can be called, or it returns something else.
        RuntimeError: if the function raises; the message ends with the place.
    """
    function = _function(target)
    try:
        problem = _problem_of(function())
    except (Exception, SystemExit) as error:
        msg = f"{target} raises {told(error)}"
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
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the name ends in .py
    loader = spec.loader
    assert loader is not None
    module = importlib.util.module_from_spec(spec)
    _search(path.resolve().parent)  # as `python FILE.py` would
    sys.modules[name] = module
    worktree.looks_at(path)
    _imported(lambda: loader.exec_module(module), str(path))
    return module


def _from_name(name: str) -> ModuleType:
    _search(Path.cwd())
    return _imported(lambda: importlib.import_module(name), name)


def _imported(load: Callable[[], Any], place: str) -> Any:
    try:
        return load()
    except (Exception, SystemExit) as error:
        msg = f"{place} cannot be imported: {told(error)}"
        raise ValueError(msg) from error


def _module_name(path: Path) -> str:
    """The name of the file, or one of its own where that is the name of another module."""
    known = getattr(sys.modules.get(path.stem), "__file__", None)
    if path.stem not in sys.modules:
        with contextlib.suppress(ValueError, ImportError):
            spec = importlib.util.find_spec(path.stem)
            known = path if spec is None else spec.origin
    same = known is not None and Path(known).exists() and path.samefile(known)
    return path.stem if same else f"hesscope_target_{path.stem}"


def _search(folder: Path) -> None:
    """Finds modules beside the target, after Python's own and before those that are installed.

    So a user's json.py hides no module of Python's, and what hesscope needs is imported before.
    """
    for name in NEEDED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    places = (i for i, place in enumerate(sys.path) if place.endswith(INSTALLED))
    sys.path.insert(next(places, len(sys.path)), str(folder))

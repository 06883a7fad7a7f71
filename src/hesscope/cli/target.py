"""Finds the user's function behind FILE.py:FUNCTION or MODULE:FUNCTION and calls it."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from hesscope.cli.processes import launched
from hesscope.cli.words import told
from hesscope.problem.problem import Problem
from hesscope.system import worktree

# What hesscope imports later on, and the ends of folders with what is installed.
NEEDED = ("numpy", "rich.progress", "safetensors.torch", "scipy", "jinja2", "matplotlib")
SHOWN = 8  # functions of a file that are named
INSTALLED = ("site-packages", "dist-packages")


def load_problem(target: str) -> Problem:
    """The Problem that the target's function returns, or that its model and data make.

    Raises:
        ValueError: if the target names nothing that can be called, or it returns something else.
        RuntimeError: if the function raises; the message ends with the place.
    """
    function = _function(target)
    if isinstance(function, Problem):
        return function
    _refuse_arguments(target, function)
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
    shard = launched() > 1  # each process has called the function, and has all of the data
    if len(parts) == 2:
        return Problem(parts[0], data=parts[1], shard=shard)
    return Problem(*parts, shard=shard)


def _function(target: str) -> Any:
    """What the target names: a function, or a problem that is there already.

    Raises:
        ValueError: if it names none; the message says what might be meant.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise ValueError(_not_a_target(target))
    if name.endswith(".py") and Path(name).is_file():
        msg = f"target {target!r} has its parts in the wrong order; give {name}:{place}."
        raise ValueError(msg)
    if Path(place).is_dir():
        msg = f"{place} is a folder; give a file in it, such as {Path(place) / 'train.py'}:{name}."
        raise ValueError(msg)
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    found = getattr(module, name, None)
    if not callable(found) and not isinstance(found, Problem):
        raise ValueError(_unknown(place, name, module))
    return found


def _not_a_target(target: str) -> str:
    msg = f"target {target!r} is not FILE.py:FUNCTION or MODULE:FUNCTION"
    if target.endswith(".py") and Path(target).is_file():
        return f"{msg}. Name a function of it; `hesscope init {target}` writes one to begin with."
    return f"{msg}."


def _unknown(place: str, name: str, module: ModuleType) -> str:
    """That there is no such function, what is there, and what comes closest."""
    if hasattr(module, name):
        kind = type(getattr(module, name)).__name__
        return f"{name} of {place} is a {kind}; a target is a function that returns a Problem."
    known = [
        n
        for n, f in vars(module).items()
        if callable(f) and getattr(f, "__module__", None) == module.__name__
    ]
    if not known:
        cure = f"`hesscope init {place}` writes a target to begin with"
        return f"{place} has no function {name!r}, and defines none; {cure}."
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    more = f", and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    meant = f". Is {close[0]} meant?" if close else "."
    return f"{place} has no function {name!r}; it defines {', '.join(known[:SHOWN])}{more}{meant}"


def _refuse_arguments(target: str, function: Callable[..., Any]) -> None:
    """A target is called without arguments.

    Raises:
        ValueError: if it needs some.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # one of C, which nobody knows
        return
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in fixed]
    if needed:
        msg = (
            f"{target} needs {', '.join(needed)}, and a target is called without arguments; give "
            "defaults, or a function that passes them."
        )
        raise ValueError(msg)


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

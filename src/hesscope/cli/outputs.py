"""Where results are to be written, looked at before the work instead of after it."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

FORMATS = (".png", ".svg", ".pdf", ".html")
FOLDERS = {"save": "--save", "scratch": "--scratch", "resume": "--resume", "kept": "--to"}
PAGES = {"report": "--to"}  # the commands that have another name for --report
PACKAGES = {  # of each extra, by the modules that are imported
    "plot": {"matplotlib": "matplotlib"},
    "report": {"jinja2": "jinja2", "matplotlib": "matplotlib"},
    "demo": {"jinja2": "jinja2", "matplotlib": "matplotlib", "sklearn": "scikit-learn"},
}
TRIED = 1 << 20  # bytes: records and pages are smaller, mostly


@contextlib.contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """Inside, no other run saves into the folder.

    Raises:
        RuntimeError: if another one does already; the message says who.
    """
    from hesscope.system.locks import Locked

    if folder is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(Locked(folder))
        except OSError as error:
            raise RuntimeError(_refusal("--save", folder, error)) from error
        yield


def check_outputs(options: argparse.Namespace) -> None:
    """Refuses folders, a page and a figure that could not be written when the work is done.

    Raises:
        RuntimeError: naming what is in the way, or which packages a page needs.
    """
    for name, option in FOLDERS.items():
        if getattr(options, name, None) is not None:
            _check_folder(getattr(options, name), option)
    if getattr(options, "report", None) is not None:
        extra = "demo" if options.command == "demo" else "report"
        _check_file(options.report, PAGES.get(options.command, "--report"), (), extra)
    if getattr(options, "figure", None) is not None:
        turned = options.figure.suffix == ".html"
        _check_file(options.figure, "--figure", FORMATS, "report" if turned else "plot")


def _check_file(path: Path, option: str, formats: tuple[str, ...], extra: str) -> None:
    """A page or a figure needs its packages, a name, and a place.

    Raises:
        RuntimeError: naming what is missing.
    """
    needed = PACKAGES[extra].items()
    missing = [name for module, name in needed if not importlib.util.find_spec(module)]
    if missing:
        what = "the demonstration" if extra == "demo" else option
        msg = f"{what} needs {' and '.join(missing)}: pip install 'hesscope[{extra}]'."
        raise RuntimeError(msg)
    if path.is_dir():
        msg = f"{option} {path} is a folder; give the name of a file, such as {path / 'page.html'}."
        raise RuntimeError(msg)
    if not formats and path.suffix in FORMATS and path.suffix != ".html":
        msg = f"{option} {path}: a page is HTML; give a file that ends in .html."
        raise RuntimeError(msg)
    if formats and path.suffix not in formats:
        msg = f"{option} {path}: give a file that ends in {', '.join(formats)}."
        raise RuntimeError(msg)
    _check_folder(path.parent, option)


def _check_folder(folder: Path, option: str) -> None:
    """Tries a file in the folder, or in the nearest one above it that exists.

    Raises:
        RuntimeError: if none can be made there, or it cannot be filled.
    """
    try:
        existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    except OSError as error:
        raise RuntimeError(_refusal(option, folder, error)) from error
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(TRIED))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RuntimeError(_refusal(option, existing, error)) from error


def _refusal(option: str, place: Path, error: OSError) -> str:
    return f"{option}: cannot write to {place}: {error.strerror}. Choose another place."

"""Where results are to be written, looked at before the work instead of after it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

FORMATS = (".png", ".svg", ".pdf", ".html")
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


def check_outputs(
    folder: Path | None,
    page: Path | None,
    scratch: Path | None = None,
    figure: Path | None = None,
) -> None:
    """Refuses folders, a page and a figure that could not be written when the work is done.

    Raises:
        RuntimeError: naming what is in the way, or which packages a page needs.
    """
    if page is not None:
        _check_page(page)
    if folder is not None:
        _check_folder(folder, "--save")
    if figure is not None:
        _check_figure(figure)
    if scratch is not None:
        _check_folder(scratch, "--scratch")


def _check_page(page: Path) -> None:
    """A page needs its packages, a name, and a place.

    Raises:
        RuntimeError: naming what is missing.
    """
    missing = [name for name in ("jinja2", "matplotlib") if not importlib.util.find_spec(name)]
    if missing:
        msg = f"--report needs {' and '.join(missing)}: pip install 'hesscope[report]'."
        raise RuntimeError(msg)
    if page.is_dir():
        msg = f"--report {page} is a folder; give the name of a file, such as {page / 'page.html'}."
        raise RuntimeError(msg)
    _check_folder(page.parent, "--report")


def _check_figure(figure: Path) -> None:
    """A figure needs matplotlib, a format that it writes, and a place.

    Raises:
        RuntimeError: naming what is missing.
    """
    if not importlib.util.find_spec("matplotlib"):
        msg = "--figure needs matplotlib: pip install 'hesscope[plot]'."
        raise RuntimeError(msg)
    if figure.suffix not in FORMATS:
        msg = f"--figure {figure}: give a file that ends in {', '.join(FORMATS)}."
        raise RuntimeError(msg)
    _check_folder(figure.parent, "--figure")


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

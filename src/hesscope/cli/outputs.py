"""Where results are to be written, looked at before the work instead of after it."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

FORMATS = (".png", ".svg", ".pdf")


def check_outputs(folder: Path | None, page: Path | None, figure: Path | None = None) -> None:
    """Refuses a folder, a page or a figure that could not be written when the work is done.

    Raises:
        RuntimeError: naming what is in the way, or which packages a page needs.
    """
    if page is not None:
        _check_page(page)
    if folder is not None:
        _check_folder(folder, "--save")
    if figure is not None:
        _check_figure(figure)


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
        RuntimeError: if none can be made there.
    """
    existing = next(
        path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()
    )
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        msg = f"{option}: cannot write to {existing}: {error.strerror}. Choose another place."
        raise RuntimeError(msg) from error

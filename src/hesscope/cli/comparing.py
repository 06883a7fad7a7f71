"""`hesscope compare`: saved results beside each other."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """The folders, their labels, and the form of the answer."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="written by --save")
    parser.add_argument("--labels", metavar="A,B,...", help="one for each; by default the folders")
    parser.add_argument("--report", type=Path, metavar="PAGE.html", help="write a page")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")


def compared(options: argparse.Namespace) -> Any:
    """The comparison of what the folders hold.

    Raises:
        ValueError: if there are fewer than two, or the labels do not fit.
        RuntimeError: if one cannot be read, or they hold results of different kinds.
    """
    import hesscope as hs

    if options.labels is not None:
        labels = options.labels.split(",")
    else:
        named = [folder.resolve().name for folder in options.folders]
        alike = len(set(named)) < len(named)
        labels = [str(folder) for folder in options.folders] if alike else named
    found = [hs.load(folder) for folder in options.folders]
    try:
        return hs.compare(*found, labels=labels)
    except TypeError as error:
        raise RuntimeError(str(error)) from error

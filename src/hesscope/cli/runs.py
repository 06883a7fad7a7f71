"""The commands on a run folder, and their arguments, known before torch is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hesscope.results.history import History

HEALTHY = 0


def add_watch_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and how often to look at it."""
    parser.add_argument("folder", type=Path, help="that a Monitor writes (to=)")
    parser.add_argument("--once", action="store_true", help="print what is known, and stop")
    parser.add_argument(
        "--every", type=_seconds, default=2.0, metavar="S", help="seconds between looks (default 2)"
    )


def watch(options: argparse.Namespace) -> int:
    """Shows a run as it goes on."""
    from hesscope.cli.watch import watch as show

    show(options.folder, once=options.once, every=options.every)
    return HEALTHY


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and where the page goes."""
    parser.add_argument("folder", type=Path, help="that a Monitor has written (to=)")
    parser.add_argument(
        "--to", type=Path, metavar="PAGE.html", dest="report", default=Path("report.html"),
        help="the page to write (default report.html)",
    )  # fmt: skip


def report(options: argparse.Namespace) -> int:
    """Writes the page of a run."""
    from hesscope import store

    print(f"report: {write_page(store.read(options.folder), options.report, options.folder)}")
    return HEALTHY


def write_page(history: History, page: Path, folder: Path) -> Path:
    """The page of a run, with what is judged of it."""
    from hesscope.diagnosis.course.verdicts import verdicts
    from hesscope.report import write_run

    return write_run(page, f"hesscope: {folder.resolve().name}", history, verdicts(history))


def _seconds(text: str) -> float:
    """A positive number of seconds.

    Raises:
        argparse.ArgumentTypeError: if it is none.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        msg = f"{text!r} is no number of seconds; give one such as 2"
        raise argparse.ArgumentTypeError(msg)
    return seconds

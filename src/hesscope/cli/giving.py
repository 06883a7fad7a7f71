"""What a command found: saved, written as a page, printed, in this order."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hesscope.cli import runs, words
from hesscope.cli.words import OWN, in_one_line, printable, remark, strings_in
from hesscope.system import interrupts


def complain(options: argparse.Namespace, text: str) -> None:
    """One line on standard error, if anybody reads it; of several processes by whom it concerns."""
    by = ""
    if words.process is not None:
        from hesscope.system.agreement import ELSEWHERE

        if ELSEWHERE in text:
            return
        by = f" (process {words.process})"
    words.write_error(f"hesscope {options.command}{by}: {in_one_line(text)}")


@contextlib.contextmanager
def plain_warnings(options: argparse.Namespace) -> Iterator[None]:
    """Inside, hesscope's warnings are lines like its other remarks, without a line of its code.

    Those of the user's code, and of libraries, are shown as they are.
    """
    shown = warnings.showwarning

    def show(message: Any, category: Any, filename: str, *more: Any, **named: Any) -> None:
        if filename.startswith(OWN):
            complain(options, str(message))
        else:
            shown(message, category, filename, *more, **named)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


def give(result: Any, options: argparse.Namespace) -> None:
    """Saves, writes the page and prints, as asked, in this order: what is saved is not lost.

    Raises:
        RuntimeError: if it could not be saved or told.
    """
    import hesscope as hs

    page, lines = getattr(options, "report", None), []
    try:
        with interrupts.deferred():
            if options.save is not None:
                options.saved = hs.save(result, options.save)
                lines.append(f"saved: {options.saved}")
            if page is not None:
                place = getattr(options, "folder", Path())
                target = getattr(options, "target", "")
                lines.append(f"report: {_write_page(result, page, place, target)}")
    except RuntimeError:  # a disk that has filled up, say
        options.output.tell(_text(result, options))
        raise
    _tell(result, options)
    for line in lines:
        if options.json:
            remark(line)
        else:
            options.output.tell(printable(line))


def _tell(result: Any, options: argparse.Namespace) -> None:
    """Prints the result, or says where it is saved.

    Raises:
        RuntimeError: if it cannot be printed.
    """
    import hesscope as hs

    try:
        options.output.tell(_text(result, options))
    except OSError as error:
        kept = options.saved or getattr(options, "folder", None)
        kept = kept or hs.save(result, tempfile.mkdtemp(prefix="hesscope-"))
        msg = f"cannot write to standard output ({error.strerror}); the result is in {kept}."
        if isinstance(error, BrokenPipeError):
            complain(options, msg)
        else:
            raise RuntimeError(msg) from error


def _text(result: Any, options: argparse.Namespace) -> str:
    """A result as it prints itself, several under their names, or as JSON."""
    import json

    from hesscope.results.checkpoint_spectrum import listed
    from hesscope.results.history import History
    from hesscope.results.plain import as_plain

    plain = as_plain(result)
    if options.json:
        return json.dumps(plain, ensure_ascii=not options.output.is_unicode)
    names = [*strings_in(plain), *options.names]
    if isinstance(result, History) and listed(result):
        return printable(listed(result), names)
    if not isinstance(result, dict):
        return printable(str(result), names)
    return printable("\n\n".join(f"{name}: {value}" for name, value in result.items()), names)


def _write_page(result: Any, page: Path, folder: Path, target: str) -> Path:
    from hesscope import report
    from hesscope.examination import Examination
    from hesscope.results.history import History
    from hesscope.results.words import kind_of

    if isinstance(result, Examination):
        return result.to_html(page, target or folder.resolve().name)
    if isinstance(result, History):
        return runs.write_page(result, page, folder)
    kind = kind_of(type(result))
    results = result if isinstance(result, dict) else {kind: result}
    spent = sum(getattr(r, "num_matvecs", 0) for r in results.values())
    alone = folder.resolve().name if folder != Path() else kind
    title = f"spectrum of {target}" if target else alone
    cost = f"{spent} matvecs" if spent else ""
    return report.write(page, title, getattr(result, "verdicts", ()), results, cost)

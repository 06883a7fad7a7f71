"""Sagun, Bottou and LeCun (2016), "Eigenvalues of the Hessian in Deep Learning", reproduced.

python papers/sagun2016.py                      all ten figures, claims, page; resumes
python papers/sagun2016.py --tiny               the same in seconds, for tests
python papers/sagun2016.py --widths 10,30,50    figure 1 with more of its networks
python papers/sagun2016.py --figures 7,8        some of them; the page keeps the others
python papers/sagun2016.py --data mnist.npz     other images: npz or IDX (see papers/data)
python papers/sagun2016.py --report blobs-74    what hs.diagnose says of a network, with a page
"""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from common import data
from common.keeping import NotMeasuredError, Run, console, measuring, progress
from common.study import save
from sagun import page, report
from sagun.context import Context
from sagun.settings import Settings, tiny

ROOT = Path(__file__).parents[1]
MODULES = {**{str(i): f"fig{i:02d}" for i in range(1, 11)}, "agreement": "agreement"}
QUICK_FIRST = ["3", "4", "5", "6", "8", "9", "10", "7", "2", "1", "agreement"]


def main(arguments: list[str] | None = None) -> None:
    """Measures what is missing, draws, and writes the page."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = tiny() if options.tiny else Settings()
    for name in ("widths", "densities"):
        if getattr(options, name) is not None:
            settings = replace(settings, **{name: getattr(options, name)})
    folder = options.run or ROOT / "build" / ("sagun2016-tiny" if options.tiny else "sagun2016")
    out = options.out or (folder / "page" if options.tiny else ROOT / "docs/papers")
    X, y = data.digits(options.data, settings.digits.examples, settings.digits.pool)
    context = Context(Run(folder), X, y, settings)
    if options.report:
        report.write(context, options.report, options.out or folder / "reports")
        return
    done = []
    with progress():
        for name in QUICK_FIRST:
            done.append(figure(context, name, out / "sagun2016", wanted=name in options.figures))
    written = page.write(out, done, settings, command(options))
    table(done)
    console.print(f"page: {written}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="seconds; its numbers mean nothing")
    parser.add_argument("--data", type=Path, default=data.DEFAULT, metavar="FILE")
    parser.add_argument("--figures", type=_names, default=list(MODULES), metavar="1,8,agreement")
    parser.add_argument("--widths", type=_widths, metavar="10,30,50,70", help="exact, figure 1")
    parser.add_argument("--densities", type=_widths, metavar="50,70", help="by products; or none")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="where results are kept")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the page goes")
    parser.add_argument("--threads", type=int, help="of torch; by default as many as cores")
    parser.add_argument("--report", metavar="NETWORK", help="digits-10, blobs-74, ...")
    options = parser.parse_args(arguments)
    if options.widths == ():
        parser.error("--widths none: at least one spectrum has to be exact, as --widths 10")
    return options


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(MODULES))
    if unknown:
        msg = f"{', '.join(unknown)}: not a figure; there are {', '.join(MODULES)}"
        raise argparse.ArgumentTypeError(msg)
    return names


def _widths(text: str) -> tuple[int, ...]:
    if text == "none":
        return ()
    parts = text.split(",")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        msg = f"{text!r}: hidden units by commas, as 10,30, or none"
        raise argparse.ArgumentTypeError(msg)
    return tuple(int(part) for part in parts)


def figure(context: Context, name: str, folder: Path, *, wanted: bool) -> page.Done:
    """Measures, draws and judges one figure; one that is not wanted only if all of it is kept."""
    module: ModuleType = importlib.import_module(f"sagun.{MODULES[name]}")
    context.run.begin(only_kept=not wanted)
    try:
        found = module.measure(context)
    except NotMeasuredError as error:
        return page.Done(name, module.TITLE, missing=f"{error.args[0]}; add --figures {name}")
    if wanted:
        console.print(f"figure {name}: {module.TITLE}")
    with measuring():
        drawing = module.draw(found)
    result = page.Done(
        name,
        module.TITLE,
        module.caption(found),
        module.check(found),
        page.pieces(context.run),
    )
    save(drawing, folder / result.file)
    return result


def command(options: argparse.Namespace) -> str:
    """The command line that a reader has to type for this page."""
    words = ["python papers/sagun2016.py"]
    if options.tiny:
        words.append("--tiny")
    for name in ("widths", "densities"):
        widths = getattr(options, name)
        if widths is not None:
            words.append(f"--{name} {','.join(map(str, widths)) or 'none'}")
    if options.data != data.DEFAULT:
        words.append(f"--data {options.data.name}")
    return " ".join(words)


def table(done: list[page.Done]) -> None:
    """The claims on the terminal."""
    from rich.table import Table

    out = Table(show_lines=True)
    for column in ("figure", "claim", "what we measured", "holds?"):
        out.add_column(column)
    for d in sorted(done, key=lambda d: page.ORDER.index(d.name)):
        for c in d.claims:
            out.add_row(d.name, c.claim, c.measured, c.holds)
    console.print(out)


if __name__ == "__main__":
    sys.exit(main())

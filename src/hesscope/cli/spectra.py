"""`hesscope spectrum`: its arguments, and what it measures over checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hesscope.cli.checkpoint_files import checkpoint_files
from hesscope.cli.words import remark

if TYPE_CHECKING:
    from hesscope.problem.problem import Problem
    from hesscope.results.history import History

USUAL = 10  # eigenvalues
ALONE = (
    "exact",
    "resume",
    "scratch",
    "outliers",
    "weights",
)  # options of one spectrum, not of a series


def add_spectrum_arguments(parser: argparse.ArgumentParser) -> None:
    """Which eigenvalues, how well, and what else."""
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        metavar="CKPTS",
        help="the same over a series: files, a pattern or a folder; eigenvalues, trace, share of "
        "negative ones and how far the eigenspace turns from one to the next; --save keeps each "
        "as it ends, and goes on from there",
    )
    parser.add_argument(
        "--share",
        choices=("checkpoints", "data"),
        help="under torchrun, of --checkpoints: each process measures some alone, or all measure "
        "each together (checkpoints where the target returns model and data)",
    )
    parser.add_argument(
        "--k", type=int, help="how many eigenvalues (default 10; twice the classes for --outliers)"
    )
    parser.add_argument("--which", choices=("LA", "SA", "LM", "BE"), default="LA")
    parser.add_argument("--tol", type=float, default=1e-3, help="relative residual (1e-3)")
    parser.add_argument("--no-verify", action="store_true", help="do not look for copies")
    parser.add_argument("--max-matvecs", type=int, help="limit on products")
    parser.add_argument("--density", action="store_true", help="counts of all, with intervals")
    parser.add_argument("--trace", action="store_true", help="trace to 1 %% and Frobenius norm")
    parser.add_argument("--outliers", action="store_true", help="how many leave the bulk")
    parser.add_argument("--exact", action="store_true", help="all eigenvalues, by dense matrix")
    parser.add_argument(
        "--product",
        choices=("auto", "lean", "reverse-over-reverse"),
        default="auto",
        help="how to multiply: lean takes less memory than a gradient, and twice the time (auto)",
    )
    kept = parser.add_mutually_exclusive_group()
    text = "keeps what is paid for, and goes on from there when the run was killed"
    kept.add_argument("--resume", type=Path, metavar="DIR", help=text)
    kept.add_argument("--scratch", type=Path, metavar="DIR", help="the same, by its name in Python")
    parser.add_argument("--report", type=Path, metavar="PAGE.html", help="write a page")


def is_series(options: argparse.Namespace) -> bool:
    """Whether checkpoints are asked for, so that --save is a folder which grows."""
    return bool(getattr(options, "checkpoints", None))


def series(problem: Problem, options: argparse.Namespace, to: Path | None) -> History:
    """The spectra over the checkpoints.

    Raises:
        ValueError: if an option has no meaning for a series, or no checkpoint can be measured.
    """
    import hesscope as hs

    refused = [f"--{name}" for name in ALONE if getattr(options, name)]
    if refused:
        msg = f"{', '.join(refused)} is about one spectrum; leave it out with --checkpoints."
        raise ValueError(msg)
    return hs.spectra(
        problem,
        checkpoint_files(options.checkpoints),
        min(USUAL, problem.n) if options.k is None else options.k,
        which=options.which,
        tol=options.tol,
        verify=not options.no_verify,
        max_matvecs=options.max_matvecs,
        to=to,
        seed=options.seed or 0,
        share=options.share,
    )


@contextmanager
def told_if_it_ends(to: Path | None) -> Iterator[None]:
    """Says what is kept of a series that something ends before it is whole."""
    from hesscope.store import holds_run

    try:
        yield
    except BaseException:
        if to is not None and holds_run(to):
            remark(f"kept to go on from: {to}")
        raise


def is_whole(history: History) -> bool:
    """Whether all checkpoints were measured, and all eigenvalues have converged."""
    from hesscope.results.checkpoint_spectrum import spectra_of

    found = spectra_of(history).values()
    return not history.events and all(bool(one.converged.all()) for one in found)

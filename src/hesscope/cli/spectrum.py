"""What `hesscope spectrum` measures: each question reuses what the earlier ones have paid for."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import hesscope as hs
from hesscope.anatomy.classes import num_classes
from hesscope.cli.spectra import USUAL
from hesscope.cli.words import printable
from hesscope.krylov.eigsh import check_arguments
from hesscope.operator.kept import KeptProducts
from hesscope.system import interrupts
from hesscope.system.locks import Locked
from hesscope.system.memory import human

DENSITY = 100  # matvecs for the density, on top of those for the eigenpairs
CLASSES_UP_TO = 5_000  # examples: class means take two passes of C backward passes for each
PARTS_OF_ALL = ("k", "density", "trace", "max_matvecs")  # of one spectrum
MOST_FOR_OUTLIERS = 100  # eigenvalues that are asked for by --outliers alone


@dataclass
class Done:
    """Whether all that was asked for is known, so that nothing need be kept."""

    whole: bool = False


@contextlib.contextmanager
def resumable(
    problem: hs.Problem, options: argparse.Namespace
) -> Iterator[tuple[hs.SymmetricOperator, Done]]:
    """The Hessian; with --resume its products are kept until all is done, and said to be.

    Raises:
        ValueError: if the folder keeps something else, or a run of another seed.
        RuntimeError: if another run works in the folder, or it cannot be written.
    """
    H, done = hs.Hessian(problem), Done()
    folder = options.resume or options.scratch
    if folder is None:
        yield H, done
        return
    before = interrupts.so_far()
    with Locked(folder):
        kept = KeptProducts(H, folder)
        _same_seed(kept, options)
        _announce(kept, options)
        yield kept, done
        if done.whole and interrupts.so_far() == before:
            kept.forget()
        else:
            print(f"kept to go on from: {printable(str(folder))}", file=sys.stderr)
    with contextlib.suppress(OSError):  # something else lies in it
        folder.rmdir()


def exact(problem: hs.Problem, options: argparse.Namespace) -> dict[str, Any]:
    """The whole spectrum; rows, memory and time are told first. Outliers, if asked for.

    Raises:
        ValueError: if something else is asked for, too.
    """
    told = [f"--{name.replace('_', '-')}" for name in PARTS_OF_ALL if getattr(options, name)]
    if told:
        msg = f"--exact gives all eigenvalues: {', '.join(told)} says nothing more; leave it out."
        raise ValueError(msg)

    def announce(text: str) -> None:
        print(text, file=sys.stderr)

    scratch = options.resume or options.scratch
    H = hs.Hessian(problem)
    found: dict[str, Any] = {"spectrum": hs.spectrum(H, scratch=scratch, announce=announce)}
    if options.outliers:
        found["outliers"] = hs.outliers(found["spectrum"], num_classes(problem))
    return found


def measure(
    problem: hs.Problem, H: hs.SymmetricOperator, options: argparse.Namespace
) -> dict[str, Any]:
    """Eigenpairs, and with them deflated what else was asked for.

    Raises:
        ValueError: if outliers are asked for of the lower end, which has none.
    """
    k = options.k or _how_many(problem, options)
    pairs = hs.eigsh(
        H,
        k=k,
        which=options.which,
        tol=options.tol,
        verify=not options.no_verify,
        max_matvecs=options.max_matvecs,
        seed=options.seed,
    )
    found: dict[str, Any] = {"eigenvalues": pairs}
    if options.density:
        density = hs.spectral_density(H, DENSITY, deflate=pairs, seed=options.seed)
        found["density"] = density
        found["condition"] = hs.conditioning(density)
    if options.trace:
        found["trace"] = hs.trace(H, pairs=pairs, seed=options.seed)
        found["Frobenius norm"] = hs.frobenius_norm(H, pairs=pairs, seed=options.seed)
    if options.outliers:
        found["outliers"] = _outliers(problem, pairs)
    return found


def check_question(problem: hs.Problem, options: argparse.Namespace) -> None:
    """Can this be asked? Looked at before anything is paid for.

    Raises:
        ValueError: if not.
    """
    k = USUAL if options.k is None else options.k
    H = hs.Hessian(problem)
    check_arguments(H, min(k, H.n) if options.k is None else k, options.which, options.tol, 1e-3)
    if options.outliers and options.which == "SA":
        msg = "--outliers are counted from the top, and --which SA is the lower end; leave one out."
        raise ValueError(msg)
    if options.outliers and options.k == 1:
        msg = "--outliers look at gaps, and --k 1 has none; leave --k out, or give 2 or more."
        raise ValueError(msg)
    if options.max_matvecs is not None and options.max_matvecs < 1:
        msg = (
            f"--max-matvecs {options.max_matvecs} leaves nothing to compute with; give 2 k or more."
        )
        raise ValueError(msg)


def _how_many(problem: hs.Problem, options: argparse.Namespace) -> int:
    """Eigenvalues where --k is not given: for outliers, twice the classes from the top."""
    classes = num_classes(problem) if options.outliers else None
    wanted = USUAL if classes is None else max(USUAL, min(2 * classes, MOST_FOR_OUTLIERS))
    return min(wanted * (2 if classes and options.which == "BE" else 1), problem.n)


def _outliers(problem: hs.Problem, pairs: hs.Eigenpairs) -> hs.Outliers:
    """With the classes, and their mean gradients where that is affordable."""
    num = num_classes(problem)
    if num is None or problem.num_items > CLASSES_UP_TO:
        return hs.outliers(pairs, num)
    try:
        return hs.outliers(pairs, num, classes=hs.class_decomposition(problem, pairs))
    except ValueError:  # targets that are distributions have no class means
        return hs.outliers(pairs, num)


def _same_seed(kept: KeptProducts, options: argparse.Namespace) -> None:
    """Goes on with the seed of the run that is kept.

    Raises:
        ValueError: if another one is asked for.
    """
    first = kept.remembered("seed", options.seed)
    if options.seed not in (None, first):
        of = "seeds that it drew itself" if first is None else f"seed {first}"
        msg = (
            f"{kept.folder} keeps a run with {of}, not {options.seed}. Leave --seed out to go on "
            "with it, or choose another folder."
        )
        raise ValueError(msg)
    options.seed = first


def _announce(kept: KeptProducts, options: argparse.Namespace) -> None:
    """What is there already, or what the disk will have to hold at most."""
    if kept.num_kept:
        text = f"going on from {kept.num_kept} products in {kept.folder}"
    else:
        row, k = kept.n * kept.dtype.itemsize, options.k or USUAL
        most = (options.max_matvecs or 21 * k + 200) + (DENSITY if options.density else 0)
        free = shutil.disk_usage(kept.folder).free
        text = (
            f"keeping products in {kept.folder}: {human(row)} for each, {human(most * row)} for "
            f"{most}, which is the most; {human(free)} are free there"
        )
    print(printable(text), file=sys.stderr)

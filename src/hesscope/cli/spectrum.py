"""What `hesscope spectrum` measures: each question reuses what the earlier ones have paid for."""

from __future__ import annotations

import argparse
from typing import Any

import hesscope as hs
from hesscope.anatomy.classes import num_classes
from hesscope.cli.spectra import USUAL
from hesscope.cli.words import remark
from hesscope.krylov.eigsh import check_arguments

DENSITY = 100  # matvecs for the density, on top of those for the eigenpairs
CLASSES_UP_TO = 5_000  # examples: class means take two passes of C backward passes for each
PARTS_OF_ALL = ("k", "density", "trace", "max_matvecs")  # of one spectrum
MOST_FOR_OUTLIERS = 100  # eigenvalues that are asked for by --outliers alone


def exact(problem: hs.Problem, options: argparse.Namespace) -> dict[str, Any]:
    """The whole spectrum; rows, memory and time are told first. Outliers, if asked for.

    Raises:
        ValueError: if something else is asked for, too.
    """
    told = [f"--{name.replace('_', '-')}" for name in PARTS_OF_ALL if getattr(options, name)]
    if told:
        msg = f"--exact gives all eigenvalues: {', '.join(told)} says nothing more; leave it out."
        raise ValueError(msg)

    scratch = options.resume or options.scratch
    H = hs.Hessian(problem)
    found: dict[str, Any] = {"spectrum": hs.spectrum(H, scratch=scratch, announce=remark)}
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


def most_products(options: argparse.Namespace) -> int:
    """That eigenvalues and density may take; the trace needs fewer, mostly."""
    pairs = options.max_matvecs or 21 * (options.k or USUAL) + 200
    return pairs + (DENSITY if options.density else 0)


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

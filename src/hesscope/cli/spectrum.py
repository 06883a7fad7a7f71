"""What `hesscope spectrum` measures: each question reuses what the earlier ones have paid for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import hesscope as hs
from hesscope.anatomy.classes import num_classes

DENSITY = 100  # matvecs for the density, on top of those for the eigenpairs
CLASSES_UP_TO = 5_000  # examples: class means take two passes of C backward passes for each


def exact(problem: hs.Problem, scratch: Path | None) -> dict[str, Any]:
    """The whole spectrum; rows, memory and time are told first."""

    def announce(text: str) -> None:
        print(text, file=sys.stderr)

    return {"spectrum": hs.spectrum(hs.Hessian(problem), scratch=scratch, announce=announce)}


def measure(problem: hs.Problem, options: argparse.Namespace) -> dict[str, Any]:
    """Eigenpairs, and with them deflated what else was asked for."""
    H = hs.Hessian(problem)
    pairs = hs.eigsh(
        H,
        k=min(options.k, H.n),
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


def _outliers(problem: hs.Problem, pairs: hs.Eigenpairs) -> hs.Outliers:
    """With the classes, and their mean gradients where that is affordable."""
    num = num_classes(problem)
    if num is None or problem.num_items > CLASSES_UP_TO:
        return hs.outliers(pairs, num)
    try:
        return hs.outliers(pairs, num, classes=hs.class_decomposition(problem, pairs))
    except ValueError:  # targets that are distributions have no class means
        return hs.outliers(pairs, num)

"""The arguments of `hesscope slice`, known before torch is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_slice_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show, how far, how finely, and where to draw it."""
    what = parser.add_mutually_exclusive_group()
    axes: dict[str, Any] = {"type": int, "choices": (1, 2), "metavar": "1|2"}
    what.add_argument("--eigen", **axes, help="along eigenvectors of the largest eigenvalues")
    what.add_argument("--filter", **axes, help="along filter-normalised directions (default: 2)")
    what.add_argument("--random", **axes, help="along random directions of length 1")
    what.add_argument("--gradient", action="store_true", help="along the gradient")
    what.add_argument(
        "--trajectory",
        nargs="+",
        type=Path,
        metavar="W.pt",
        help="plane of these weights, or a folder of them",
    )
    what.add_argument(
        "--between", nargs=2, type=Path, metavar=("A.pt", "B.pt"), help="from weights to weights"
    )
    parser.add_argument("--path", action="store_true", help="between: also a curve of low loss")
    parser.add_argument("--match", action="store_true", help="path: permute units to match first")
    parser.add_argument("--span", type=float, help="coordinates from -SPAN to SPAN (default 1)")
    parser.add_argument("--points", type=int, default=41, help="along each direction (default 41)")
    kept = parser.add_mutually_exclusive_group()
    text = "keeps finished points, and goes on from there when the run was killed"
    kept.add_argument("--resume", type=Path, metavar="DIR", help=text)
    kept.add_argument("--scratch", type=Path, metavar="DIR", help="the same, by its name in Python")
    parser.add_argument("--workers", type=int, metavar="N", help="split points over N processes")
    parser.add_argument(
        "--figure", type=Path, metavar="FILE.png", help="png, svg, pdf; html to turn"
    )
    parser.add_argument("--log", action="store_true", help="draw the loss on a logarithmic scale")

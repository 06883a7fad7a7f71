"""A small GPT on text: its curvature by type of block, as Adam sees it, and over classes.

python papers/transformer.py           all parts; resumes
python papers/transformer.py --tiny    the same in seconds, for tests
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from common.study import Part, Study, run
from transforming import classes, training


@dataclass(frozen=True)
class Sizes:
    """What a run takes time for."""

    seeds: int = 5
    width: int = 4  # for whole spectra
    wide: int = 12  # for outliers: no less than classes
    depth: int = 2
    symbols: int = 12
    length: int = 12
    sequences: int = 16
    lr: float = 1e-2
    steps: tuple[int, ...] = (1, 20, 100, 400)
    classes: tuple[int, ...] = (3, 8)
    pieces: int = 48  # to tell the topic of
    trained: int = 150  # steps before outliers are counted


STUDY = Study(
    "transformer",
    "The curvature of a small transformer",
    """\
Which parts of a transformer carry its curvature, what does Adam make of it, how does it change
while it is trained, and are there as many outliers as classes? A GPT that is trained here, on
characters of Python's help texts, small enough for every eigenvalue, in float64. What holds for
400 parameters need not hold for a billion. Ranges are median [least, most] over five
seeds.""",
    {
        "training": Part("By type of block, over training", training.measure),
        "classes": Part("Outliers and classes", classes.measure),
    },
    Sizes(),
    Sizes(1, 2, 2, 1, 4, 6, 4, 1e-2, (1, 2), (3, 4), 8, 2),
)

if __name__ == "__main__":
    sys.exit(run(STUDY))

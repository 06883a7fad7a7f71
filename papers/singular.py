"""Degenerate minima: singular, flat, wide; and how long it takes to get there.

python papers/singular.py                     all of it; resumes
python papers/singular.py --tiny              the same in seconds, for tests
python papers/singular.py --parts learning    one part; the page keeps the others
"""

from __future__ import annotations

import sys

from common.study import Part, Study, run
from degenerate import fisher, flat, halting, learning, zeros
from degenerate.settings import Sizes, tiny

HEAD = """
What does it mean that most eigenvalues are zero? Where they come from, how far the bottom is flat,
what may be done there, and what a singular model learns. Ranges are median [least, most], over
seeds where nothing else is said.
"""
STUDY = Study(
    name="singular",
    title="Singular minima: where zeros come from, and how flat is flat",
    head=HEAD,
    parts={
        "fisher": Part("The Fisher information", fisher.measure),
        "learning": Part("The learning coefficient", learning.measure),
        "flat": Part("Along the bottom", flat.measure),
        "zeros": Part("Where zeros come from", zeros.measure),
        "halting": Part("Halting times", halting.measure),
    },
    full=Sizes(),
    tiny=tiny(),
)

if __name__ == "__main__":
    sys.exit(run(STUDY))

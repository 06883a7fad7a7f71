"""Critical points: their index and their loss, how near they are, and how they are left.

python papers/saddles.py                    all of it; resumes
python papers/saddles.py --tiny             the same in seconds, for tests
python papers/saddles.py --parts index      one part; the page keeps the others
"""

from __future__ import annotations

import sys

from common.study import Part, Study, run
from stationary import escapes, half, index, near, plateaus, quasi
from stationary.settings import Sizes, tiny

HEAD = """
Where is the gradient zero, and what is there? Critical points of small networks are searched, and
counted only where the gradient is zero to rounding and the sign of every eigenvalue is certain.
Ranges are median [least, most].
"""
STUDY = Study(
    name="saddles",
    title="Saddle points: where they lie, and how they are left",
    head=HEAD,
    parts={
        "index": Part("Index against loss", index.measure),
        "half": Part("How rare a minimum is", half.measure),
        "near": Part("Near the path of training", near.measure),
        "escapes": Part("Leaving saddles", escapes.measure),
        "quasi": Part("Quasi-Newton methods", quasi.measure),
        "plateaus": Part("Plateaus", plateaus.measure),
    },
    full=Sizes(),
    tiny=tiny(),
)

if __name__ == "__main__":
    sys.exit(run(STUDY))

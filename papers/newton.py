"""Optimisers of `hs.optim` that use curvature, beside gradient descent, Adam and torch's L-BFGS.

python papers/newton.py             all of it, figures and page; resumes
python papers/newton.py --tiny      the same in seconds, for tests

SOAP is run too if `pytorch_optimizer` is installed (pip install --no-deps pytorch_optimizer).
"""

from __future__ import annotations

import sys

from acting import parts
from acting.settings import Settings, tiny
from common.study import Part, Study, run

STUDY = Study(
    name="newton",
    title="Optimisers that use curvature, beside those that do not",
    head="""
Do they leave saddles, and do they train faster? Ranges are median [least, most] over seeds; times
are processor seconds of one thread.""",
    parts={
        "passages": Part("A saddle in three dimensions, and a network's own", parts.passages),
        "autoencoder": Part("A deep autoencoder", parts.deep),
        "million": Part("A million parameters", parts.large),
    },
    full=Settings(),
    tiny=tiny(),
)

if __name__ == "__main__":
    sys.exit(run(STUDY))

"""Flat minima by SAM, small batches, a trace penalty and Entropy-SGD, at equal training loss.

python papers/flatness.py                       digits, edges, and CIFAR-10 where it is; resumes
python papers/flatness.py --tiny                the same in seconds, for tests
python papers/flatness.py --cifar FILE.npz      x_train, y_train, x_test, y_test as of CIFAR-10
python papers/flatness.py --parts digits,edge   some of it; the page keeps the others
"""

from __future__ import annotations

import sys

from common.study import Part, Study, run
from flat import parts
from flat.settings import Sizes, tiny

STUDY = Study(
    name="flatness",
    title="Flat minima by six ways of training, at equal training loss",
    head="""
Does what is said to flatten minima do so where the loss is the same, and does test accuracy gain by
it? Each method trains the same networks from the same starts until the loss on all training data is
at most a target; there the curvature is measured, and the accuracy on held-out data. Ratios and
differences are to plain SGD of the same seed, with 95 % intervals (Student's t) over seeds; of
twenty such intervals one misses the truth by luck.""",
    parts={
        "digits": Part("Digits, 49-32-10", parts.digits),
        "measures": Part("Which measure goes with accuracy", parts.measures),
        "rescaled": Part("The same network, sharper at will", parts.rescaled),
        "edge": Part("The edge of SAM", parts.edges),
        "cifar": Part("CIFAR-10, ResNet-20", parts.cifar),
    },
    full=Sizes(),
    tiny=tiny(),
    files={"cifar": "an npz with x_train, y_train, x_test and y_test"},
)

if __name__ == "__main__":
    sys.exit(run(STUDY))

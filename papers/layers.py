"""Spectra of layers, what couples them, Adam against SGD, and penalties on one layer.

python papers/layers.py           all parts; resumes
python papers/layers.py --tiny    the same in seconds, for tests
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from common.study import Part, Study, run
from layered import adam, coupling, targeted, whole


@dataclass(frozen=True)
class Sizes:
    """What a run takes time for."""

    seeds: int = 5
    widths: tuple[int, int, int, int] = (16, 4, 6, 2)  # perceptron, channels, GPT, its depth
    examples: int = 100  # digits
    sequences: int = 16  # of 12 characters
    steps: int = 150  # of Adam until a network counts as trained
    lr: float = 1e-2
    products: int = 60  # for each norm
    classes: tuple[int, ...] = (2, 4, 8, 16, 32)
    compared: int = 150  # steps of SGD and Adam
    factors: tuple[float, ...] = (4.0, 16.0)
    strength: float = 0.03  # of the penalty
    loss: float = 0.3  # at which penalties are compared
    most: int = 400  # steps with a penalty


STUDY = Study(
    "layers",
    "Layers and blocks of the Hessian",
    """\
What do the spectra of single layers say about the whole? How much of the Hessian lies between
layers? Do blocks that differ explain why Adam is better than SGD on some networks (Zhang et al.
2024, arXiv 2402.16788)? Can one layer alone be made flat? A perceptron and a convolutional network
on 100 digits pooled to 7 x 7 and a transformer of two blocks on characters of Python's help texts,
all in float64 with 600 to 1,800 parameters, so that every Hessian is exact. Small networks on
little data are what this page is about. Ranges are median [least, most] over five seeds.""",
    {
        "spectra": Part("Each layer beside the whole", whole.measure),
        "coupling": Part("What lies between layers", coupling.measure),
        "adam": Part("Blocks that differ, SGD and Adam", adam.measure),
        "targeted": Part("A penalty on one layer", targeted.measure),
    },
    Sizes(),
    Sizes(1, (4, 1, 2, 1), 20, 2, 2, 1e-2, 6, (2, 4), 2, (4.0,), 0.03, 0.3, 2),
)

if __name__ == "__main__":
    sys.exit(run(STUDY))

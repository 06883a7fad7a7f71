"""Curvature as a tool for finding what is wrong: the third text as a tutorial.

python papers/debugging.py                 all parts, figures and page; resumes
python papers/debugging.py --tiny          the same in seconds, for tests
python papers/debugging.py --parts svm     some of it; the page keeps the others
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from common.study import Part, Study, run
from debug import differences, machines, minima, noise, points, starts, steps, stuck

HEAD = """
What can the Hessian tell of a training that goes wrong? An essay of 2019 goes from the initial
weights to saddle points and to how second derivatives are computed. Here each of its statements is
put to numbers, in the order in which one would ask: are the weights right, is the step too long,
has training stopped, and at what kind of place? Ranges are median [least, most] over seeds or
networks.
"""


@dataclass(frozen=True)
class Sizes:
    """What a run takes time for."""

    seeds: int = 5
    settings: int = 3
    starts: tuple[int, int, int, tuple[float, ...]] = (100, 16, 200, (0.03, 0.1, 0.3, 1.0))
    steps: tuple[int, int, tuple[int, ...]] = (500, 100, (0, 100, 500))
    points: tuple[int, tuple[int, ...]] = (5, (2, 3))  # seeds; layers of linear networks
    stuck: tuple[int, int, int] = (150, 2_000, 10)  # networks, steps, of which looked at
    machines: tuple[int, int] = (5, 500)  # points and chords
    minima: tuple[int, int, tuple[int, ...]] = (40, 1_500, (2, 4, 12))
    differences: tuple[float, ...] = tuple(10 ** (-k / 2) for k in range(24))  # h
    whole: tuple[int, ...] = (8, 16, 32)  # widths
    noise: tuple[int, tuple[float, ...], int] = (300, (0.1, 0.3, 1.0, 3.0), 4_000)


TINY = Sizes(
    seeds=1, settings=1, starts=(40, 6, 5, (0.1,)), steps=(20, 30, (0, 2, 5)), stuck=(12, 40, 1),
    machines=(1, 20), minima=(6, 20, (2, 4)), points=(1, (2,)),
    differences=(0.1, 1e-6), whole=(1,), noise=(60, (0.3,), 8),
)  # fmt: skip

PARTS = {
    "start": Part("Initial weights", starts.measure),
    "step": Part("When a gradient step raises the loss", steps.measure),
    "stuck": Part("Stopped at a high loss: gradient, restart, kick", stuck.measure),
    "points": Part("Minimum or saddle?", points.measure),
    "minima": Part("Many minima of one network", minima.measure),
    "svm": Part("Support-vector machines and logistic regression", machines.measure),
    "differences": Part("Second derivatives by differences", differences.measure),
    "noise": Part("Noise, speed and momentum", noise.measure),
}
STUDY = Study("debugging", "Finding what is wrong by curvature", HEAD, PARTS, Sizes(), TINY)

if __name__ == "__main__":
    sys.exit(run(STUDY))

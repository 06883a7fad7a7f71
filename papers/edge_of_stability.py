"""Learning rate and curvature: the edge of stability, batches, warm-up, and going faster.

python papers/edge_of_stability.py                  all parts, figures and page; resumes
python papers/edge_of_stability.py --tiny           the same in seconds, for tests
python papers/edge_of_stability.py --parts batches  some of it; the page keeps the others
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from common.study import Part, Study, run
from stability import batches, course, edge, faster, start
from stability.training import ENTROPY, SQUARED, Course

HEAD = """
Does the curvature fall or rise in training, and what has the learning rate to do with it? Descent
is stable where the largest eigenvalue λmax is below 2/lr. Here small perceptrons train at learning
rates below, at and beyond that, on all data and on batches, and `hs.Monitor` looks on. Ranges are
median [least, most] over seeds.
"""


def courses(steps: int, every: int) -> dict[str, Course]:
    """The trainings along which λmax and trace are followed."""
    return {
        f"{SQUARED}, small lr": Course(0.05, steps, every),
        f"{SQUARED}, lr 0.4": Course(0.4, steps, every),
        f"{ENTROPY}, small lr": Course(0.1, steps, every, loss=ENTROPY),
        f"{ENTROPY}, lr 1": Course(1.0, steps, every, loss=ENTROPY),
        f"{SQUARED}, batches of 5": Course(0.2, steps, every, batch=5),
    }


@dataclass(frozen=True)
class Sizes:
    """What a run takes time for."""

    seeds: int = 5
    settings: int = 3  # networks of each part
    edge: tuple[int, int] = (1_500, 50)  # steps, steps between looks
    batches: tuple[float, int, tuple[int, ...]] = (0.4, 1_200, (5, 20, 100))  # lr, steps
    warm: tuple[int, int] = (100, 200)  # steps of the warm-up, and all
    catapult: tuple[int, int] = (20, 1_000)  # starts, steps
    courses: dict[str, Course] = field(default_factory=lambda: courses(800, 80))
    races: int = 8  # trainings
    faster: int = 4_000  # steps at most


TINY = Sizes(
    seeds=1, settings=1, edge=(8, 4), batches=(0.4, 4, (5, 100)), warm=(3, 6), catapult=(2, 200),
    courses=dict(list(courses(6, 3).items())[:2]),
    races=1, faster=4,
)  # fmt: skip

PARTS = {
    "descent": Part("The edge of stability", edge.descent),
    "adam": Part("Adam at its edge", edge.adam),
    "batches": Part("Batches", batches.batches),
    "warmup": Part("Warm-up", start.warm_up),
    "catapult": Part("The catapult", start.catapult),
    "course": Part("λmax and trace along training", course.flattening),
    "faster": Part("Curvature to go faster", faster.faster),
}
STUDY = Study("edge_of_stability", "Learning rate and curvature", HEAD, PARTS, Sizes(), TINY)

if __name__ == "__main__":
    sys.exit(run(STUDY))

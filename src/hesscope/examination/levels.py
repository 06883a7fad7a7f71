"""How much an examination looks at: three levels, and what each part of them costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hesscope.sampling.error import DEPTH

LevelName = Literal["quick", "standard", "deep"]
GRADIENTS_PER_MATVEC = 2.0  # measured for networks of all kinds: 1.9 to 2.0
CHECK_GRADIENTS = 20  # of check_problem, on 8 examples: next to nothing on large data
LEAST_SURVEY = 4  # products that say anything at all about a spectrum


@dataclass(frozen=True)
class Level:
    """What is measured; products in all, those of the pairs' residuals included."""

    budget: int  # Hessian-vector products
    pairs: int  # eigenpairs, half of them from each end
    sampled: int  # of them with data error bars
    radii: bool  # whether smoothness is looked at, at six lengths, two gradients each
    preconditioned: int  # products for λmax of P⁻¹H, where the optimiser is adaptive
    probes: int = 0  # other points at which negative curvature is looked for
    probe_matvecs: int = 0  # for each of them


LEVELS: dict[LevelName, Level] = {
    "quick": Level(budget=40, pairs=2, sampled=0, radii=False, preconditioned=12),
    "standard": Level(budget=110, pairs=6, sampled=1, radii=True, preconditioned=20),
    "deep": Level(
        budget=400, pairs=12, sampled=3, radii=True, preconditioned=40, probes=4, probe_matvecs=25
    ),
}


@dataclass(frozen=True)
class Spending:
    """Where the products of an examination go."""

    survey: int  # the Lanczos run with the pairs' residuals
    along: int  # products along the gradient and along the update
    preconditioned: int
    sampling: int
    probes: int

    @property
    def total(self) -> int:
        """All products."""
        return self.survey + self.along + self.preconditioned + self.sampling + self.probes


def spending(level: Level, budget: int | None, *, updated: bool, adaptive: bool) -> Spending:
    """The parts of a budget: what is fixed first, the rest for the survey.

    A budget too small for everything leaves out data error bars and probes.

    Raises:
        ValueError: if the budget is too small to say anything.

    >>> spending(LEVELS["quick"], None, updated=False, adaptive=False).survey
    39
    """
    total = level.budget if budget is None else budget
    along = 1 + updated
    preconditioned = level.preconditioned if adaptive else 0
    sampling = (1 + DEPTH) * level.sampled
    probes = level.probes * level.probe_matvecs
    if total < 4 * (along + preconditioned + sampling) + 2 * probes:
        sampling = probes = 0
    preconditioned = min(preconditioned, total // 3)
    survey = total - along - preconditioned - sampling - probes
    if survey < LEAST_SURVEY - 1:
        msg = f"budget={total} matvecs is too little to say anything; the usual is {level.budget}."
        raise ValueError(msg)
    return Spending(survey, along, preconditioned, sampling, probes)

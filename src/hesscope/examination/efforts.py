"""How much an examination looks at: three efforts, and how each shares out its products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hesscope.sampling.error import DEPTH

EffortName = Literal["quick", "standard", "deep"]
GRADIENTS_PER_MATVEC = 2.0  # measured for networks of all kinds: 1.9 to 2.0
LEAST_SURVEY = 4  # products that say anything at all about a spectrum


@dataclass(frozen=True)
class Effort:
    """What is measured; products in all, the one that checks the pairs included."""

    name: EffortName
    max_matvecs: int  # Hessian-vector products
    pairs: int  # eigenpairs, half of them from each end
    sampled: int  # of them with data error bars
    radii: bool  # whether smoothness is looked at, at six lengths, two gradients each
    preconditioned: int  # products for λmax of P⁻¹H, where the optimiser is adaptive
    rounds: int = 3  # of four vectors, for the noise of batches
    probes: int = 0  # other points at which negative curvature is looked for
    probe_matvecs: int = 0  # for each of them

    def includes(self, other: EffortName) -> bool:
        """Whether what is measured from the other effort on is measured at this one."""
        names = list(EFFORTS)
        return names.index(self.name) >= names.index(other)


EFFORTS: dict[EffortName, Effort] = {
    effort.name: effort
    for effort in (
        Effort("quick", 39, pairs=2, sampled=0, radii=False, preconditioned=12, rounds=1),
        Effort("standard", 105, pairs=6, sampled=1, radii=True, preconditioned=20),
        Effort(
            "deep",
            389,
            pairs=12,
            sampled=3,
            radii=True,
            preconditioned=40,
            rounds=5,
            probes=4,
            probe_matvecs=25,
        ),
    )
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


def spending(effort: Effort, max_matvecs: int | None, *, updated: bool, adaptive: bool) -> Spending:
    """The parts of `max_matvecs`: what is fixed first, the rest for the survey.

    A number too small for everything leaves out data error bars and probes.

    Raises:
        ValueError: if they are too few to say anything.

    >>> spending(EFFORTS["quick"], None, updated=False, adaptive=False).survey
    38
    """
    total = effort.max_matvecs if max_matvecs is None else max_matvecs
    along = 1 + updated
    preconditioned = effort.preconditioned if adaptive else 0
    sampling = (1 + DEPTH) * effort.sampled
    probes = effort.probes * effort.probe_matvecs
    if total < 4 * (along + preconditioned + sampling) + 2 * probes:
        sampling = probes = 0
    preconditioned = min(preconditioned, total // 3)
    survey = total - along - preconditioned - sampling - probes
    if survey < LEAST_SURVEY - 1:
        msg = (
            f"max_matvecs={total} is too little to say anything; the usual is {effort.max_matvecs}."
        )
        raise ValueError(msg)
    return Spending(survey, along, preconditioned, sampling, probes)

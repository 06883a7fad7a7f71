"""What a search for eigenpairs is asked, and what its rounds have found: frozen, handed on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hesscope import probes
from hesscope.krylov.basis import Basis
from hesscope.krylov.lanczos import Recurrence
from hesscope.krylov.rows import Rows
from hesscope.krylov.wanted import Wanted
from hesscope.operator import SymmetricOperator


@dataclass(frozen=True)
class Request:
    """Which pairs of which operator, how exactly, and by which means."""

    A: SymmetricOperator
    wanted: Wanted
    tol: float
    verify: bool
    delta: float
    seed: int
    first_seed: int  # of the random starts, from which each round has a key of its own
    start: Tensor | None
    budget: int  # products in all
    limit: int  # products for Lanczos steps; the last one checks the pairs
    max_rows: int  # vectors of a run before it restarts
    unit: float = 1.0  # in which results are given: A is that of the user over it

    def start_key(self, round_: int) -> int:
        """The seed of the start of a round."""
        return probes.key(self.first_seed, "start of eigsh", round_)

    def forecast(self, spent: int) -> int:
        """Products that the search will have taken, for whoever watches."""
        usual = 2 * self.wanted.k + 15 + 15 * self.verify
        return min(self.budget, max(usual, spent + 5) + 1)


@dataclass(frozen=True)
class Round:
    """One run in the complement of what was locked before it, without its vectors."""

    recurrence: Recurrence
    ritz: np.ndarray  # Ritz values, ascending
    asymmetry: float
    num_new: int  # pairs that were locked from it
    risk: float  # that something wanted is still unseen; 1 where something new was locked
    num_matvecs: int
    stopped: str  # why it ended early: "limit", "interrupted" or ""


@dataclass(frozen=True)
class Found:
    """The pairs that are locked, and the rounds that found them."""

    locked: Basis
    residuals: Rows  # A x - θ x of each locked x, to the rounding of products
    values: np.ndarray  # of the locked pairs, in the order in which they were found
    estimates: np.ndarray  # their residuals by the recurrence
    lost: tuple[float, ...] = ()  # norms of what restarts have left out of them
    rounds: tuple[Round, ...] = ()
    spare: tuple[int, ...] = ()  # which are locked for the sake of the proof alone
    shift: float = 0.0  # by which a proof has to come nearer for them

    @property
    def num_matvecs(self) -> int:
        """Products of all rounds."""
        return sum(each.num_matvecs for each in self.rounds)

    @property
    def scale(self) -> float:
        """The size of the operator from below, as far as was seen."""
        return self.rounds[-1].recurrence.scale if self.rounds else 0.0

    @property
    def noise(self) -> float:
        """What rounding leaves in every residual."""
        return self.locked.A.product_noise(self.scale)

    @property
    def stopped(self) -> str:
        """Why the last round ended early: "limit", "interrupted" or ""."""
        return self.rounds[-1].stopped if self.rounds else ""

    @property
    def risks(self) -> list[float]:
        """Of the rounds since the last that has found something."""
        since = 0
        for i, each in enumerate(self.rounds):
            if each.num_new:
                since = i + 1
        return [each.risk for each in self.rounds[since:]]

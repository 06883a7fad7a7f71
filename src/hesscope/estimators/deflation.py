"""What is left of an operator when eigenpairs and Krylov spaces have been taken out exactly.

For any orthonormal Q and the projection P on its complement, tr A = tr QᵀAQ + tr PAP and
‖A‖_F² = ‖QᵀAQ‖_F² + 2 ‖PAQ‖_F² + ‖PAP‖_F². A Lanczos run knows the first terms exactly, also of
its vectors that have not converged; probes that know nothing of Q estimate the last one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np

from hesscope import probes
from hesscope.krylov.basis import Basis
from hesscope.krylov.given import checked
from hesscope.krylov.lanczos import Lanczos, random_start
from hesscope.krylov.noise import noise_of_run, told
from hesscope.operator import SymmetricOperator, finite_product
from hesscope.results.spectrum import Eigenpairs
from hesscope.system import progress

RECENT = 4  # steps that the gain of a further step is judged by
FIRST = 6  # steps before a run is judged at all


@dataclass(frozen=True)
class Probe:
    """Unbiased for tr PAP and ‖PAP‖_F²: m zᵀPAPz/zᵀz and m ‖PAPz‖²/zᵀz, m the size left."""

    trace: float
    squares: float


class Deflated:
    """The space that has been taken out of A, what A does there, and the products spent."""

    def __init__(
        self, A: SymmetricOperator, pairs: Eigenpairs | None, seed: int, unit: float = 1.0
    ) -> None:
        self.A, self.seed, self.unit = A, seed, unit
        self.taken = Basis(A)
        self.trace = self.squares = self.scale = self.misfit = self.measured = 0.0
        self.num_matvecs = self.num_probes = self.rounds = 0
        if pairs is not None:
            self._take_pairs(pairs)

    @property
    def left(self) -> int:
        """The dimension of the complement."""
        return self.A.n - len(self.taken)

    def _take_pairs(self, pairs: Eigenpairs) -> None:
        """Takes out eigenpairs that are already known; one product looks whether they are A's.

        Raises:
            ValueError: if they are those of another operator.
        """
        given = checked(self.A, pairs, self.seed, self.unit)
        self.num_matvecs += given.num_matvecs
        self.taken.extend(given.vectors)
        self.trace += float(given.values.sum())
        self.scale = float(np.abs(given.values).max())
        self.squares += float(np.sum(given.values**2) + 2 * np.sum(given.residuals**2))
        self.misfit = given.misfit

    def take_krylov(self, most: int, rtol: float = 0.0) -> None:
        """Takes out a Krylov space of at most `most` dimensions, as long as a step is worth it.

        A step explains α_j² + 2 β_{j-1}² of ‖A‖_F² for good. It is worth more than a probe while
        that is above (rtol·trace)²/2, because n probes have the variance 2 ‖PAP‖_F²/n.

        Raises:
            ValueError: if a product is of the wrong form.
            RuntimeError: if a product is not finite, or squares of its entries are not.
        """
        start = random_start(
            self.A, self.taken, probes.key(self.seed, "start of a trace", self.rounds)
        )
        run = Lanczos(self.A, start, self.taken)
        self.rounds += 1
        gains: list[float] = []
        while not run.exhausted and run.num_steps < most:
            coupling = run.residual
            run.step()
            self.num_matvecs += 1
            progress.report("trace: matvecs", self.num_matvecs)
            gains.append(run.alpha[-1] ** 2 + 2 * coupling**2)
            worth = (rtol * (self.trace + sum(run.alpha))) ** 2 / 2
            if run.num_steps >= FIRST and np.mean(gains[-RECENT:]) <= worth:
                break
        for q in islice(run.Q, run.num_steps):
            self.taken.append(q)
        self.scale = max(self.scale, run.scale)
        if self.rounds == 1:
            S = np.linalg.eigh(run.T)[1]
            self.measured = noise_of_run(run, S, self.seed)
        self.trace += float(np.trace(run.T))
        last = 0.0 if run.exhausted else run.residual
        self.squares += float((run.T**2).sum()) + 2 * last**2

    @property
    def rounding(self) -> float:
        """What rounding can do to the trace: eps‖A‖ for each vector that was taken out.

        Where given pairs or products are off by more, |tr M| <= √k ‖M‖_F of what they are off by.
        """
        num = max(len(self.taken), 1)
        rounded = self.A.product_noise(self.scale) * num
        return rounded + 2 * math.sqrt(num) * (self.misfit + self.measured)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know about the products."""
        return told(self.A, self.measured, self.scale)

    def probe(self) -> Probe:
        """One product with a fresh Gaussian vector in the complement.

        Raises:
            RuntimeError: if it is not finite.
        """
        z = self.taken.complement(
            self.A.probe(probes.key(self.seed, "probe of a trace", self.num_probes))
        )
        w = self.taken.complement(finite_product(self.A, z))
        self.num_probes += 1
        self.num_matvecs += 1
        progress.report("trace: matvecs", self.num_matvecs)
        z, w = z[:, None], w[:, None]
        size = float(self.A.inner(z, z)) / self.left
        return Probe(float(self.A.inner(z, w)) / size, float(self.A.inner(w, w)) / size)

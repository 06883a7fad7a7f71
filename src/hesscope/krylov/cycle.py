"""One Krylov space of a linear system: its solution of least residual, or of least energy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hesscope import rounding
from hesscope.krylov.basis import Basis
from hesscope.krylov.lanczos import Lanczos, Start
from hesscope.operator import SymmetricOperator
from hesscope.system import interrupts, progress


@dataclass(frozen=True)
class Limits:
    """When a cycle ends."""

    target: float  # of the norm of the residual
    steps: int
    done: int  # products before, for those who watch
    total: int


class Cycle:
    """The Krylov space of A and r, in which (A + damping I) d = r is solved for any damping.

    Lanczos gives A Q = Q T + β q e', so both solutions are small problems in T (Paige and Saunders
    1975): MINRES has the least ‖r - (A + damping I) Q y‖, CG makes the residual orthogonal to Q.
    """

    def __init__(self, A: SymmetricOperator, r: Tensor, size: float) -> None:
        self.run = Lanczos(A, Start(r, 0.0), Basis(A))  # no proof rests on this start
        self.size = size
        self.interrupted = False

    def grow(self, damping: float, method: str, limits: Limits) -> tuple[float, ...]:
        """Products until the residual is below the target; its norm after each of them."""
        history: list[float] = []
        rotation = _Rotations(self.size)
        try:
            while not self.run.exhausted and self.run.num_steps < limits.steps:
                self.run.step()
                j = self.run.num_steps - 1
                rotation.add(self.run.T[j, j] + damping, self._below())
                history.append(rotation.residual(method))
                progress.report("solve: matvecs", limits.done + j + 1, limits.total)
                if history[-1] <= limits.target:
                    break
        except KeyboardInterrupt:
            interrupts.note()
            self.interrupted = True
        return tuple(history)

    def solution(self, damping: float, method: str) -> Tensor:
        """The step d = Q y, (n,), without what products have no digits for."""
        T = self.run.T + damping * np.eye(len(self.run.T))
        first = np.zeros(len(T) + 1)
        first[0] = self.size
        if method == "minres":
            last = np.zeros((1, len(T)))
            last[0, -1:] = self._below()
            y = self._least_squares(np.concatenate([T, last]), first)
        else:
            y = self._least_squares(T, first[:-1])
        return self.run.vectors(y[:, None])[:, 0]

    def _least_squares(self, T: np.ndarray, b: np.ndarray) -> np.ndarray:
        smallest = max(4, len(T)) * rounding.eps(self.run.A.precision)  # of the largest
        y: np.ndarray = np.linalg.lstsq(T, b, rcond=smallest)[0]
        return y

    def _below(self) -> float:
        """The entry of T̄ under its last row; none where the space is invariant."""
        return 0.0 if self.run.exhausted else self.run.residual

    def lowest(self) -> float:
        """The smallest Ritz value, which is vᵀAv of a unit vector v."""
        return float(self.run.ritz()[0][0])

    def lowest_vector(self) -> Tensor:
        """That vector, (n,)."""
        _, S, _ = self.run.ritz()
        return self.run.vectors(S[:, :1])[:, 0]

    def projected(self, damping: float, b: Tensor) -> Tensor:
        """Q (T + damping I)⁻¹ Qᵀ b, (n,): what this space knows of another right-hand side."""
        m = self.run.num_steps
        c = self.run.Q.inner(b)[:m].cpu().numpy()
        T = self.run.T + damping * np.eye(m)
        return self.run.vectors(self._least_squares(T, c)[:, None])[:, 0]


class _Rotations:
    """The residual norm of a growing tridiagonal system, by one Givens rotation a step."""

    def __init__(self, size: float) -> None:
        self.phi, self.c, self.s, self.c_before, self.below = size, 1.0, 0.0, 1.0, 0.0

    def add(self, diagonal: float, below: float) -> None:
        """One more row and column: its diagonal entry, and the entry below that."""
        above = self.c_before * self.below  # of the new column, after the rotation before the last
        reduced = self.c * diagonal - self.s * above
        length = math.hypot(reduced, below)
        self.c_before = self.c
        self.c, self.s = (reduced / length, below / length) if length > 0 else (1.0, 0.0)
        self.below = below
        self.phi *= self.s

    def residual(self, method: str) -> float:
        """‖r‖ of the solution: |φ|, and for CG |φ/c| (Paige and Saunders 1975)."""
        if method == "minres" or self.phi == 0:
            return abs(self.phi)
        return abs(self.phi / self.c) if self.c else math.inf

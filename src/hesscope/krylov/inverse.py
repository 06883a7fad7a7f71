"""The inverse of an operator as an operator, by a linear system for each product."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from hesscope.krylov.preconditioner import PreconditionerLike
from hesscope.krylov.solve import solve
from hesscope.operator import Derived, OperatorLike, symmetric_operator
from hesscope.system import interrupts

USUAL, USUAL_WEAK = 1e-8, 1e-4  # tolerances: of float64, and of weaker products


class Inverse(Derived):
    """(A + damping I)⁻¹, known by its products: each solves a system with `solve`.

    What takes an operator then answers for the inverse: `hs.diagonal(hs.Inverse(A, damping))` gives
    the variances of a Laplace approximation, `hs.trace` their sum, `hs.eigsh` the eigenvalues of A
    closest to -damping. Products are exact to `tol`, relative to the inverse, and algorithms know
    it as the noise of this operator: no certificate claims more digits.

    Args:
        A: the operator, or a matrix as for `as_operator`.
        damping: is added to the diagonal of A.
        tol: ‖v - (A + damping I) x‖/‖v‖ of every product; by default 1e-8 in float64, and 1e-4
            where products are weaker.
        preconditioner: as for `solve`.
        lambda_min: a proven lower bound on the eigenvalues of A, as for `solve`.
        max_matvecs: products with A for each product with the inverse.

    Attributes:
        num_solved: products with A that were made so far, the true cost.

    Raises:
        ValueError: if an argument is out of range.
        RuntimeError: of a product, if a system is not solved to `tol`.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.tensor([3.0, 1.0, 0.0]).double()))
    >>> hs.diagonal(hs.Inverse(A, damping=1.0, lambda_min=0.0), 6).values.round(decimals=9)
    tensor([0.2500, 0.5000, 1.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        A: OperatorLike,
        damping: float = 0.0,
        *,
        tol: float | None = None,
        preconditioner: PreconditionerLike | None = None,
        lambda_min: float = -math.inf,
        max_matvecs: int = 500,
    ) -> None:
        super().__init__(symmetric_operator(A))
        usual = USUAL if self.A.precision == torch.float64 else USUAL_WEAK
        self.tol = usual if tol is None else tol
        self.damping, self.max_matvecs = damping, max_matvecs
        self.preconditioner, self.known_lowest = preconditioner, lambda_min
        self.num_solved = 0
        zero = torch.zeros(self.n, 1, dtype=self.dtype, device=self.device)
        self._solved(zero)  # costs no product, and refuses what solve refuses

    @property
    def lowest(self) -> float:
        """No eigenvalue of A + damping I lies below; -inf where nothing is known."""
        return max(self.A.lower_bound, self.known_lowest) + self.damping

    @property
    def lower_bound(self) -> float:
        """Zero where A + damping I is known to be positive definite."""
        return 0.0 if self.lowest > 0 else -math.inf

    @property
    def identity_part(self) -> float:
        """1/damping, the eigenvalue of all that A is blind to."""
        return 1 / self.damping if self.damping > 0 else 0.0

    def tolerance(self, size: float) -> float:
        """‖x - x*‖ ≤ ‖(A + damping I)⁻¹‖ tol ‖v‖."""
        return self.tol * (1 / self.lowest if self.lowest > 0 else size)

    def facts(self) -> dict[str, Any]:
        """Those of A, and how it is inverted."""
        own = {"operator": self._expression(), "damping": self.damping, "tol": self.tol}
        return {**super().facts(), **own}

    def matmat(self, V: Tensor) -> Tensor:
        """(A + damping I)⁻¹ V.

        Raises:
            RuntimeError: if a system is not solved to the tolerance.
        """
        return self._solved(V)

    def _solved(self, V: Tensor) -> Tensor:
        before = interrupts.so_far()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "interrupted")  # it is raised again, below
            solution = solve(
                self.A,
                V,
                self.damping,
                tol=self.tol,
                preconditioner=self.preconditioner,
                lambda_min=self.known_lowest,
                max_matvecs=self.max_matvecs * V.shape[1],
            )
        self.num_solved += solution.num_matvecs
        if interrupts.so_far() > before:
            raise KeyboardInterrupt
        if not bool(solution.converged.all()):
            worst, notes = float(solution.relative.max()), "; ".join(solution.notes)
            msg = (
                f"a system was solved to {worst:.1e} only, not to tol={self.tol:.0e}, by "
                f"{solution.num_matvecs} products{': ' if notes else ''}{notes}. Give a damping, a "
                "preconditioner, a larger tol or more max_matvecs."
            )
            raise RuntimeError(msg)
        return solution.x.reshape(V.shape)

    def _expression(self) -> str:
        shift = f" + {self.damping:g} I" if self.damping else ""
        return f"Inverse({self.A._expression()}{shift})"

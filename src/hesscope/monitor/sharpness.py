"""The top eigenvalue of a matrix that changes slowly, from two or three products at a time.

A run that starts near the last eigenvector has the value after a step or two, but what it proves is
as long as from anywhere: only the random part of a start excludes eigenvalues that were not seen.
So every look is a proven lower bound, and every so often one is carried on to a proof from above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from hesscope.krylov.basis import Basis
from hesscope.krylov.certificate import upper_bound
from hesscope.krylov.lanczos import (
    Lanczos,
    Start,
    independent_seed,
    mixed_start,
    random_start,
)
from hesscope.operator import SymmetricOperator, at_order_one, in_units, norm

SETTLED = 0.003  # of the value: its error as the residual and the gap give it, at which a look ends
WIDTH = 0.02  # of the value: a certificate ends where nothing is left further above
PRODUCTS = 12  # of a look without a certificate, at most
CERTIFIED_PRODUCTS = 60  # of one with
PERIOD = 10  # looks from one certificate to the next
PAUSE = 4  # looks that are at least between two, however much has changed
MOVED, TURNED = 0.1, 0.9  # a change of the value, and an overlap, that ask for a certificate


@dataclass(frozen=True)
class Top:
    """The top of a spectrum at one look.

    `value` minus `noise` is a lower bound of λmax for certain. `upper` is one from above, except
    with the probability that was asked for, or NaN where this look was not carried on to a proof.
    """

    value: float
    noise: float  # of rounding
    residual: float  # ‖Av - value v‖, as the recurrence has it
    upper: float
    overlap: float  # |v·v'| with the vector of the last look; NaN at the first
    age: int  # looks since the last proof: 0 is one
    num_matvecs: int
    vector: Tensor  # (n,), of unit norm


class Tracker:
    """Follows λmax from look to look.

    Args:
        delta: the probability that an upper bound is wrong, for each.
        seed: of the random part of the starts.

    >>> import torch, hesscope as hs
    >>> tracker = Tracker()
    >>> A = torch.diag(torch.arange(1.0, 101.0).double())
    >>> first, second = tracker.look(hs.as_operator(A)), tracker.look(hs.as_operator(1.01 * A))
    >>> round(second.value), second.num_matvecs < first.num_matvecs
    (101, True)
    """

    def __init__(self, *, delta: float = 1e-3, seed: int = 0) -> None:
        self.delta, self.seed = delta, seed
        self._top: Top | None = None

    def look(self, A: SymmetricOperator) -> Top:
        """λmax of A as it is now.

        Costs 2 to 3 products where A has changed little, 10 to 20 where it is to be proven that
        nothing lies above.

        Raises:
            RuntimeError: if a product is not finite or A is not symmetric.
        """
        self.seed += 1
        self._top = at_order_one(A, self._looked)
        return self._top

    def _looked(self, A: SymmetricOperator, unit: float) -> Top:
        """A look at a matrix of order one, `unit` A being the one that was asked about."""
        last = self._top
        run = Lanczos(A, self._start(A), Basis(A))
        _grow(run)
        found = self._found(run, unit)
        if last is None or _is_due(found, last):
            found = self._proven(run, unit)
        return found

    def forget(self) -> None:
        """The next look is one from scratch."""
        self._top = None

    def _start(self, A: SymmetricOperator) -> Start:
        if self._top is None:
            return random_start(A, Basis(A), self.seed)
        warm = self._top.vector
        return mixed_start(A, warm, independent_seed(self.seed, warm))

    def _found(self, run: Lanczos, unit: float, upper: float = math.nan) -> Top:
        last = self._top
        theta, S, residuals = run.ritz()
        vector = run.vectors(S[:, -1:])[:, 0]
        overlap = math.nan
        if last is not None:
            overlap = abs(float(run.A.inner(vector[:, None], last.vector[:, None])))
            overlap /= norm(run.A, vector) or 1.0
        return Top(
            value=float(theta[-1]) * unit,
            noise=in_units(run.noise, unit),
            residual=in_units(float(residuals[-1]), unit),
            upper=in_units(upper, unit),
            overlap=overlap,
            age=0 if math.isfinite(upper) or last is None else last.age + 1,
            num_matvecs=run.num_steps,
            vector=vector,
        )

    def _proven(self, run: Lanczos, unit: float) -> Top:
        """The run carried on until nothing is left above, or to the last product set aside."""
        while not run.exhausted and run.num_steps < CERTIFIED_PRODUCTS:
            theta = run.ritz()[0]
            if upper_bound(run, self.delta) - theta[-1] <= WIDTH * abs(theta[-1]):
                break
            run.step()
        return self._found(run, unit, upper_bound(run, self.delta))


def _grow(run: Lanczos) -> None:
    """Steps until the value has settled: its error is about residual²/gap (Parlett 1998, 11.7)."""
    while not run.exhausted and run.num_steps < PRODUCTS:
        run.step()
        theta, _, residuals = run.ritz()
        gap = theta[-1] - theta[-2] if len(theta) > 1 else 0.0
        if gap > 0 and residuals[-1] ** 2 / gap <= SETTLED * abs(theta[-1]):
            return


def _is_due(found: Top, last: Top) -> bool:
    """Whether it is time for a proof that nothing lies above what is followed."""
    changed = abs(found.value - last.value) > MOVED * abs(last.value)
    turned = not found.overlap >= TURNED
    return found.age >= PERIOD or (found.age > PAUSE and (changed or turned))

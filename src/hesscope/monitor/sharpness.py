"""The top eigenvalue of a matrix that changes slowly, from two or three products at a time.

The last eigenvector, and vectors whose products are known, have the value after a product or two.
To prove that nothing lies above takes as long as from anywhere: only the random part of a start
excludes eigenvalues that were not seen. So every look is a proven lower bound, and every so often
one goes on to a proof from above, in the complement of the vector: see `Tracker._proven`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from hesscope.krylov.basis import Basis
from hesscope.krylov.certificate import upper_bound
from hesscope.krylov.lanczos import Lanczos, independent_seed, random_start
from hesscope.krylov.subspace import Subspace, settled
from hesscope.operator import SymmetricOperator, at_order_one, in_units, norm

SETTLED = 0.01  # of the value: its error as the residual and the gap give it, at which a look ends
PROVEN = 0.003  # likewise, before a proof: the bound is wider by as much
FADES = 0.9  # what is left of an eigenvalue that was second at the last look and is not seen now
WIDTH = 0.02  # of the value: a certificate ends where nothing is left further above
PRODUCTS = 12  # of a look without a certificate, at most
CERTIFIED_PRODUCTS = 60  # of one with
PERIOD = 10  # looks from one certificate to the next
PAUSE = 4  # looks that are at least between two, however much has turned
TURNED = 0.9  # an overlap with the last vector below which a certificate is asked for

Products = Sequence[tuple[Tensor, Tensor]]  # vectors v and Av, (n,) each


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
    second: float = -math.inf  # where the second eigenvalue was seen last


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

    def look(self, A: SymmetricOperator, known: Products = ()) -> Top:
        """λmax of A as it is now.

        Costs 2 to 4 products where A has changed little, 10 to 20 where it is to be proven that
        nothing lies above.

        Args:
            A: the matrix.
            known: vectors and what A makes of them, where that was needed for something else: the
                gradient and the step lie in the top of a Hessian for a good part, and each saves
                about a product.

        Raises:
            RuntimeError: if a product is not finite or A is not symmetric.
        """
        self.seed += 1
        self._top = at_order_one(A, lambda B, unit: self._looked(B, known, unit))
        return self._top

    def forget(self) -> None:
        """The next look is one from scratch."""
        self._top = None

    def _looked(self, A: SymmetricOperator, known: Products, unit: float) -> Top:
        """A look at a matrix of order one, `unit` A being the one that was asked about."""
        if self._top is None:
            return _in_units(self._proven(A, None), unit)
        last = _in_units(self._top, 1 / unit)
        last = replace(last, vector=last.vector.to(A.device, A.dtype))
        space = Subspace(A)
        space.add(last.vector)
        for v, product in known:
            space.add(v.to(A.dtype), product.to(A.dtype) / unit)
        found = _followed(space, last, SETTLED)
        if _is_due(found):
            found = self._proven(A, _followed(space, last, PROVEN))
        return _in_units(found, unit)

    def _proven(self, A: SymmetricOperator, found: Top | None) -> Top:
        """What was found with an upper bound, as close as the products set aside allow.

        A random start in the complement of the vector v proves that nothing there lies above some
        μ, which needs few products where there is a gap. With θ = v·Av and r = ‖Av - θv‖, nothing
        at all lies above the larger eigenvalue of the 2 x 2 matrix of θ, r and μ.
        """
        locked, seed = Basis(A), self.seed
        if found is not None:
            locked.append(found.vector)
            seed = independent_seed(seed, found.vector)
        run = Lanczos(A, random_start(A, locked, seed), locked)
        while not run.exhausted and run.num_steps < CERTIFIED_PRODUCTS:
            run.step()
            best = _better(run, found)
            enough = WIDTH * abs(best.value)
            known = best.residual <= enough or (found is not None and best.value == found.value)
            if known and _bound(run, found, self.delta) - best.value <= enough:
                break
        return replace(_better(run, found), upper=_bound(run, found, self.delta), age=0)


def _followed(space: Subspace, last: Top, tolerance: float) -> Top:
    """The top of a space that grows by residuals until its value is settled."""
    A = space.A
    while True:
        theta = space.ritz()[0]
        vector, residual = space.top()
        size, value = norm(A, residual), float(theta[-1])
        grown = value / last.value if last.value > 0 else 0.0
        second = last.second * grown if grown > 0 else -math.inf
        rests = settled(theta, size, second) <= tolerance * abs(value)
        if rests or space.num_matvecs >= PRODUCTS or not space.add(residual):
            break
    vector = vector / (norm(A, vector) or 1.0)
    return Top(
        value=value,
        noise=space.noise,
        residual=size,
        upper=math.nan,
        overlap=abs(float(A.inner(vector[:, None], last.vector[:, None]))),
        age=last.age + 1,
        num_matvecs=space.num_matvecs,
        vector=vector,
        second=max(float(theta[-2]) if len(theta) > 1 else -math.inf, FADES * second),
    )


def _better(run: Lanczos, found: Top | None) -> Top:
    """What was found, or the top of a run in its complement where that is higher."""
    theta, S, residuals = run.ritz() if run.num_steps else (np.zeros(0), None, np.zeros(0))
    spent = run.num_steps + (0 if found is None else found.num_matvecs)
    seen = float(theta[-1]) if len(theta) else -math.inf
    if found is not None and (S is None or seen <= found.value):
        return replace(found, num_matvecs=spent, second=max(seen, found.second))
    assert S is not None
    below = float(theta[-2]) if len(theta) > 1 else -math.inf
    return Top(
        value=seen,
        noise=run.noise,
        residual=float(residuals[-1]),
        upper=math.nan,
        overlap=math.nan if found is None else 0.0,
        age=0,
        num_matvecs=spent,
        vector=run.vectors(S[:, -1:])[:, 0],
        second=below if found is None else max(below, found.value),
    )


def _bound(run: Lanczos, found: Top | None, delta: float) -> float:
    """Nothing lies above, except with probability delta."""
    if run.num_steps == 0:  # the vector is all there is
        assert found is not None
        return found.value + found.residual + found.noise
    mu = upper_bound(run, delta)
    if found is None or not math.isfinite(mu):
        return mu
    half = (found.value - mu) / 2
    return found.value - half + math.hypot(half, found.residual + found.noise)


def _in_units(top: Top, unit: float) -> Top:
    """The numbers of a look at A as those of a look at unit A."""
    return replace(
        top,
        value=top.value * unit,
        noise=in_units(top.noise, unit),
        residual=in_units(top.residual, unit),
        upper=in_units(top.upper, unit),
        second=top.second * unit,
    )


def _is_due(found: Top) -> bool:
    """Whether it is time for a proof that nothing lies above what is followed."""
    return found.age >= PERIOD or (found.age > PAUSE and not found.overlap >= TURNED)

"""The Lanczos recurrence with full reorthogonalisation, grown one product at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hesscope import rounding
from hesscope.krylov.basis import Basis
from hesscope.krylov.relation import Relation, combined
from hesscope.operator import (
    SymmetricOperator,
    finite_product,
    norm,
    refuse_out_of_range,
    refuse_size,
)
from hesscope.system import interrupts
from hesscope.system.contents import as_bytes

AT_A_TIME = 8  # vectors that are made of a basis: all of them might not fit beside it
ASYMMETRIC = 0.05  # of the size of A: above, the products are not those of a symmetric matrix


@dataclass(frozen=True)
class Start:
    """A start vector, and how much of it is random.

    `share` is the squared weight of a standard normal entry in the normalised start: σ²/‖v‖² for
    v = x + σ z with z standard normal. Certificates rest on it alone, whatever x is.
    """

    vector: Tensor
    share: float


def random_start(A: SymmetricOperator, locked: Basis, seed: int) -> Start:
    """A Gaussian vector in the complement of the locked ones."""
    z = locked.complement(A.probe(seed))
    size = norm(A, z)
    return Start(z, 1.0 / size**2 if size > 0 else math.inf)


def mixed_start(A: SymmetricOperator, warm: Tensor, seed: int, random_part: float = 0.1) -> Start:
    """A warm vector plus `random_part` of a random direction, which keeps certificates valid.

    They are valid when the random direction was drawn without knowing the warm vector and the
    other way round: see `independent_seed`.
    """
    warm = A.own_part(warm.reshape(A.n, -1).sum(1).to(dtype=A.dtype, device=A.device))
    sigma = random_part / math.sqrt(A.n)
    v = warm / norm(A, warm) + sigma * A.probe(seed)
    return Start(v, sigma**2 / norm(A, v) ** 2)


def independent_seed(seed: int, warm: Tensor) -> int:
    """A seed whose probes have nothing to do with how `warm` was found.

    A warm vector usually comes from a run with the same seed. Its probe would then not be random
    given the warm vector, and certificates would be void; a seed that depends on every bit of the
    warm vector cannot have been used to find it.
    """
    content = as_bytes(warm).numpy().tobytes()
    return int.from_bytes(hashlib.sha256(f"{seed} ".encode() + content).digest()[:7])


def at_a_time(which: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of vectors, as many as may be made at once."""
    return (which[i : i + AT_A_TIME] for i in range(0, len(which), AT_A_TIME))


@dataclass(frozen=True)
class Recurrence:
    """The coefficients of a run until its first restart, on which all its proofs rest."""

    alpha: tuple[float, ...]
    beta: tuple[float, ...]
    share: float  # of the start: see `Start`
    scale: float  # of A, from below


class Lanczos:
    """A Q = Q T + beta q e', with Q orthonormal (also to `locked`) and T projected from A.

    T is tridiagonal until the first `restart`, and `alpha`, `beta` describe that part for good:
    they are the recurrence coefficients of the polynomials orthogonal with respect to the
    spectral measure of the start vector (Lanczos 1950; Golub and Meurant 2010).
    """

    def __init__(
        self, A: SymmetricOperator, start: Start, locked: Basis, *, known_scale: float = 0.0
    ) -> None:
        self.A, self.locked, self.share = A, locked, start.share
        self._known_scale = known_scale  # of A, from earlier runs in a larger space
        self.Q = Basis(A)
        self.T = np.zeros((0, 0))
        self.alpha: list[float] = []
        self.beta: list[float] = []
        self.restarted = False
        self.asymmetry = 0.0
        self.residual = 0.0  # the last beta
        self._coupling = np.zeros(0)  # the new column of T above its diagonal
        self._relation = Relation()
        self._rest: Tensor | None = None  # of the last product, where no vector follows
        size = norm(A, start.vector)
        self.exhausted = len(locked) >= A.n or size == 0.0
        if not self.exhausted:
            self.Q.append(start.vector / size)

    @property
    def num_steps(self) -> int:
        """The order of T."""
        return len(self.T)

    @property
    def scale(self) -> float:
        """The size of A from below: the largest entry of T in this and earlier runs."""
        return float(np.abs(self.T).max(initial=self._known_scale))

    @property
    def noise(self) -> float:
        """What rounding leaves in every residual."""
        return self.A.product_noise(self.scale)

    @property
    def recurrence(self) -> Recurrence:
        """What the run proves things with, as it is now, without its vectors."""
        return Recurrence(tuple(self.alpha), tuple(self.beta), self.share, self.scale)

    def step(self) -> None:
        """One product with A; afterwards T is larger by one.

        Raises:
            ValueError: if the product is of the wrong form.
            RuntimeError: if the product is not finite, so large or small that `at_order_one` has to
                scale A, or shows that A is not symmetric.
        """
        j = self.num_steps
        w = finite_product(self.A, self.Q[j])
        if j == 0 and self._known_scale == 0.0 and len(self.locked) == 0:
            refuse_out_of_range(self.A, self.Q[j], w)
        w, outside = self.locked.project_out(w)
        alpha = self.A.inner(self.Q[j][:, None], w[:, None])[0, 0]
        back = float(self._coupling[j - 1]) if j else 0.0
        # Taken out first, so that what all vectors take out afterwards is no more than rounding.
        alpha = alpha.to(w.dtype)
        w = w - alpha * self.Q[j] - back * self.Q[max(j - 1, 0)]
        w, h = self.Q.project_out(w)
        if len(self.locked):
            w, more = self.locked.project_out(w)
            outside = outside + more
        h[j] += alpha
        h[max(j - 1, 0)] += back
        column = h.cpu().numpy()
        self._note_asymmetry(column)
        residual = norm(self.A, w)
        with interrupts.deferred():  # a run is what it was, or longer by a step, and of use
            self._extend(column[j], residual)
            self._relation.add(column, residual, outside.cpu().numpy())
            self._rest = w
            if not self.exhausted:
                self.Q.append(w / residual)
                self._rest = None

    def _extend(self, alpha: float, residual: float) -> None:
        """T with one more row, and whether anything is left to find.

        Raises:
            RuntimeError: if A is so large that squares overflow.
        """
        j = self.num_steps
        T = np.pad(self.T, (0, 1))
        T[j, j] = alpha
        T[:j, j] = T[j, :j] = self._coupling
        scale = float(np.abs(T).max(initial=self._known_scale))
        refuse_size(scale, small=False)
        # Asked first: what an operator answers may be code of the user's, which can be interrupted.
        noise, precision = self.A.product_noise(scale), self.A.precision
        full = len(self.locked) + j + 1 >= self.A.n
        self.T, self.residual = T, residual
        self.exhausted = full or residual <= rounding.breakdown(precision, scale)
        if not self.restarted:  # below rounding, a larger beta is the weaker, honest statement
            self.alpha.append(alpha)
            self.beta.append(residual if full else max(residual, noise))
        self._coupling = np.zeros(j + 1)
        self._coupling[j] = residual

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values ascending, their vectors in the basis Q, and residual norms beta |s_m|."""
        theta, S = np.linalg.eigh(self.T)
        residual = 0.0 if self.exhausted else self.residual
        return theta, S, residual * np.abs(S[-1]) if len(S) else np.zeros(0)

    def vectors(self, S: np.ndarray) -> Tensor:
        """The Ritz vectors Q S, (n, k)."""
        return self.Q.combine(torch.from_numpy(np.ascontiguousarray(S)))

    def residual_vectors(self, theta: np.ndarray, S: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """A x - θ x for the columns of Q S, (n, k), locked directions included, from no product.

        To the rounding of the products of the run. The second, (k,), bounds the norms of what
        restarts have left without vectors: rounding again, where A is symmetric.
        """
        outside, inside, lost = self._relation.off(S, theta)
        found = combined(self.locked, self.Q, outside, inside[: len(self.Q)])
        if self._rest is not None:
            found += self._rest[:, None] * torch.from_numpy(S[-1:].copy()).to(self._rest)
        return found, lost

    def restart(self, keep: np.ndarray) -> None:
        """Keeps the Ritz vectors with these indices and the residual direction (Wu, Simon 2000)."""
        theta, S, _ = self.ritz()
        kept = Basis(self.A)
        for some in at_a_time(keep):
            for v in self.vectors(S[:, some]).unbind(1):
                kept.append(v)
        kept.append(self.Q[self.num_steps])
        with interrupts.deferred():
            self._known_scale = self.scale
            self.Q = kept
            self._relation.restart(S[:, keep], theta[keep])
            self.T = np.diag(theta[keep])
            self._coupling = self.residual * S[-1, keep]
            self.restarted = True

    def _note_asymmetry(self, column: np.ndarray) -> None:
        """q_i'A q_j must equal q_j'A q_i, which an earlier step has found: a free check.

        Raises:
            RuntimeError: if they differ by more than a twentieth of the size of A.
        """
        j = len(column) - 1
        if j == 0:
            return
        difference = float(np.abs(column[:j] - self._coupling).max())
        scale = max(self.scale, float(np.abs(column).max()))
        self.asymmetry = max(self.asymmetry, difference / scale if scale > 0 else 0.0)
        if self.asymmetry > ASYMMETRIC:
            msg = (
                f"the operator is not symmetric or not repeatable: u'Av and v'Au differ by "
                f"{self.asymmetry:.0%} of its size. hs.check_problem(problem), or "
                "hs.check_operator(A) for an operator of your own, names the cause."
            )
            raise RuntimeError(msg)

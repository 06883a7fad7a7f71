"""Extreme eigenpairs: Lanczos until converged, lock, then verify that nothing was missed."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hesscope import progress
from hesscope.linalg import certificate
from hesscope.linalg.basis import Basis
from hesscope.linalg.lanczos import Lanczos, Start, mixed_start, random_start
from hesscope.memory import available_bytes
from hesscope.operator import SymmetricOperator
from hesscope.results.spectrum import Certificate, Eigenpairs

Which = Literal["LA", "SA", "LM", "BE"]

WINDOW = 1e-3  # of the largest wanted |eigenvalue|: nearer ones are not told apart by certificates
NOISE = 4  # times eps and the size of A: what rounding leaves in every residual
STRICTER = 0.7  # times tol while running: what is locked later adds to the residuals of the earlier
CROWD = 8  # eigenvalues within a third of the outermost: asking for pairs is the wrong question
BASIS_SHARE = 0.4  # of the free memory that the Krylov basis may take


def eigsh(
    A: SymmetricOperator,
    k: int = 6,
    which: Which = "LA",
    *,
    tol: float = 1e-3,
    verify: bool = True,
    start: Tensor | None = None,
    max_matvecs: int | None = None,
    seed: int = 0,
    delta: float = 1e-3,
    max_basis: int | None = None,
) -> Eigenpairs:
    """k extreme eigenpairs of A, with true residuals and a proof that none was skipped.

    Lanczos with full reorthogonalisation runs until every wanted residual is below tol·|θ|. With
    `verify`, the pairs are locked and a fresh random start in their complement must certify that
    nothing beyond the k-th is left there; further copies of a multiple eigenvalue show up in this
    round and are added. Without, the first run's own certificate excludes skipped values, up to
    copies. Residuals come from fresh products, never below rounding noise.

    Args:
        A: the operator.
        k: how many pairs, 1 <= k <= n.
        which: "LA" largest, "SA" smallest, "LM" largest in absolute value, "BE" both ends (the
            larger half from the top). The most wanted eigenvalue comes first.
        tol: residual relative to |eigenvalue| at which a pair is converged.
        verify: find copies of printed values too, by a second random start.
        start: a warm vector (n,) or several (n, m), mixed with a random tenth.
        max_matvecs: an upper limit on products; what is not converged by then is still returned.
        seed: of the random starts.
        delta: probability that a certificate is wrong.
        max_basis: vectors to keep before a thick restart; by default what 40 % of the free
            memory holds.

    Returns:
        The pairs. About k + 15 matvecs to converge, 10 to verify and k for the residuals, when
        eigenvalues are separated; more without gaps, and then `notes` says so.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: if a product is not finite, or A is not symmetric.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.tensor([5.0, 5.0, 1.0, 0.0]).double()))
    >>> hs.eigsh(A, k=3).eigenvalues
    tensor([5., 5., 1.], dtype=torch.float64)
    """
    _check_arguments(A, k, which, tol, delta, start, max_matvecs)
    search = _Search(A, _Wanted(k, which), tol, verify, seed, delta, start)
    search.limit = max_matvecs or 20 * k + 200
    search.max_rows = max_basis or _rows_that_fit(A, k)
    search.run()
    return search.result()


@dataclass(frozen=True)
class _Wanted:
    """Which k of some values are asked for, and the region in which no other may lie."""

    k: int
    which: Which

    def choose(self, values: np.ndarray) -> np.ndarray:
        """Indices of the wanted values, the most wanted first."""
        up = np.argsort(values, kind="stable")
        if self.which == "LA":
            return up[::-1][: self.k]
        if self.which == "SA":
            return up[: self.k]
        if self.which == "LM":
            return np.argsort(-np.abs(values), kind="stable")[: self.k]
        if len(values) <= self.k:
            return up[::-1]
        top, bottom = self.ends()
        return np.concatenate([up[::-1][:top], up[:bottom][::-1]])

    def region(self, chosen: np.ndarray) -> tuple[float, float]:
        """(low, high) such that exactly the values <= low or >= high are wanted."""
        if self.which == "LA":
            return -math.inf, float(chosen.min())
        if self.which == "SA":
            return float(chosen.max()), math.inf
        if self.which == "LM":
            smallest = float(np.abs(chosen).min())
            return -smallest, smallest
        top, bottom = self.ends()
        ordered = np.sort(chosen)
        return float(ordered[bottom - 1]) if bottom else -math.inf, float(ordered[-top])

    def ends(self) -> tuple[int, int]:
        """How many come from the top and from the bottom for "BE"."""
        return -(-self.k // 2), self.k // 2


@dataclass
class _Search:
    """The state of one `eigsh`: locked pairs, rounds of Lanczos, and the products spent."""

    A: SymmetricOperator
    wanted: _Wanted
    tol: float
    verify: bool
    seed: int
    delta: float
    start: Tensor | None
    limit: int = 0
    max_rows: int = 0
    num_matvecs: int = 0
    rounds: int = 0
    stopped: str = ""  # why the search ended early: "limit", "interrupted" or ""
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))
    estimates: np.ndarray = field(default_factory=lambda: np.zeros(0))
    asymmetry: float = 0.0
    crowd: int = 0
    complete: bool = False
    copies: bool = False
    first: Lanczos | None = None
    scale: float = 0.0

    def __post_init__(self) -> None:
        self.locked = Basis(self.A)

    def run(self) -> None:
        """Rounds of Lanczos, each in the complement of what is locked, until nothing is new."""
        while not self.stopped:
            run = Lanczos(self.A, self._start(), self.locked, known_scale=self.scale)
            self._grow(run)
            self.rounds += 1
            self.first = self.first or run
            self.asymmetry = max(self.asymmetry, run.asymmetry)
            found = self._lock(run)
            enough = len(self.values) >= self.wanted.k
            if len(self.values) == self.A.n:
                self.complete = self.copies = True
                return
            if enough and (not found or not self.verify) and not self.stopped:
                self.complete = self._certified(run) or not self.verify
                self.copies = self.verify and self.complete
                return

    def result(self) -> Eigenpairs:
        """The wanted pairs with fresh residuals, refined by Rayleigh-Ritz among themselves."""
        chosen = self.wanted.choose(self.values)
        X = torch.stack([self.locked[int(i)] for i in chosen], 1)
        theta, residuals = self.values[chosen], self.estimates[chosen]
        if self.stopped != "interrupted":
            X, theta, residuals = self._refined(X)
        floor = self._noise()
        residuals = np.maximum(residuals, floor)
        converged = residuals <= np.maximum(self.tol * np.abs(theta), 10 * floor)
        return Eigenpairs(
            eigenvalues=torch.from_numpy(theta.copy()),
            eigenvectors=X,
            residuals=torch.from_numpy(residuals),
            converged=torch.from_numpy(converged),
            num_matvecs=self.num_matvecs,
            certificate=self._certificate(theta, residuals, bool(converged.all())),
            which=self.wanted.which,
            seed=self.seed,
            notes=self._notes(converged),
            facts={**self.A.facts(), "rounds": self.rounds, "asymmetry": self.asymmetry},
        )

    def _start(self) -> Start:
        if self.start is not None and self.rounds == 0:
            return mixed_start(self.A, self.start, self.seed)
        return random_start(self.A, self.locked, self.seed + self.rounds)

    def _grow(self, run: Lanczos) -> None:
        """Steps of one run until it has what it was made for, or the products are used up."""
        try:
            while not run.exhausted:
                if self.num_matvecs >= self.limit:
                    self.stopped = "limit"
                    return
                run.step()
                self.num_matvecs += 1
                self.scale = max(self.scale, run.scale)
                progress.report("eigenpairs: matvecs", self.num_matvecs, self._forecast())
                if self._due(run) and self._finished(run):
                    return
                if run.num_steps >= self.max_rows and not run.exhausted:
                    run.restart(self._kept(run))
        except KeyboardInterrupt:
            self.stopped = "interrupted"
            warnings.warn("interrupted: returning the eigenpairs found so far", stacklevel=4)

    def _due(self, run: Lanczos) -> bool:
        """Looking at T costs m³: at every step while it is small, then every fourth."""
        return run.num_steps <= 64 or run.num_steps % 4 == 0

    def _forecast(self) -> int:
        usual = 2 * self.wanted.k + 15 + 15 * self.verify
        return min(self.limit, max(usual, self.num_matvecs + 5)) + self.wanted.k

    def _finished(self, run: Lanczos) -> bool:
        theta, _, residuals = run.ritz()
        if len(self.values) + len(theta) < self.wanted.k:
            return False
        new = self._new(theta)
        if not (residuals[new] <= self._allowed(theta[new])).all():
            return False
        if self.rounds == 0:
            return self.verify or self._certified(run)
        return len(new) > 0 or self._certified(run)

    def _new(self, theta: np.ndarray) -> np.ndarray:
        """Indices of the run's Ritz values that are wanted and not a copy of the locked k-th."""
        known = len(self.values)
        chosen = self.wanted.choose(np.concatenate([self.values, theta]))
        new = chosen[chosen >= known] - known
        if known < self.wanted.k:
            return new
        printed = self.wanted.choose(self.values)
        low, high = self.wanted.region(self.values[printed])
        margin = 10 * self._noise() + float(self.estimates[printed].max())
        return new[(theta[new] > high + margin) | (theta[new] < low - margin)]

    def _certified(self, run: Lanczos) -> bool:
        """Whether nothing unseen lies in the wanted region, away from this run's own values."""
        if run.exhausted:
            return True
        theta, _, _ = run.ritz()
        if run.restarted and self.rounds == 0:
            return False
        everything = np.concatenate([self.values, theta])
        chosen = everything[self.wanted.choose(everything)]
        low, high = self.wanted.region(chosen)
        window = WINDOW * float(np.abs(chosen).max())
        gaps = _gaps(theta, low, high, window)
        return all(certificate.excludes(run, a, b, self._risk(run)) for a, b in gaps)

    def _risk(self, run: Lanczos) -> float:
        """The delta of one exclusion, such that all of them together miss with at most delta.

        In a first run any of the k wanted eigenvectors, at either end, may have been met with too
        little weight. In the complement of the locked pairs only the outermost one counts.
        """
        return self.delta / (2 * self.wanted.k if run is self.first or not self.first else 2)

    def _lock(self, run: Lanczos) -> bool:
        """Locks the wanted pairs of a run (all, if it broke down too early); whether any is new."""
        if run.num_steps == 0:
            return False
        theta, S, residuals = run.ritz()
        if self.rounds == 1:
            self.crowd = int((np.abs(theta) >= 2 / 3 * np.abs(theta).max()).sum())
        short = run.exhausted and len(self.values) + len(theta) < self.wanted.k
        new = np.arange(len(theta)) if short else self._new(theta)
        if len(new) == 0:
            return False
        for v in run.vectors(S[:, new]).unbind(1):
            v, _ = self.locked.project_out(v)
            self.locked.append(v / v.norm())
        self.values = np.concatenate([self.values, theta[new]])
        self.estimates = np.concatenate([self.estimates, residuals[new]])
        return True

    def _kept(self, run: Lanczos) -> np.ndarray:
        """Ritz vectors to keep at a thick restart: the wanted ones and half of the rest."""
        theta, _, _ = run.ritz()
        need = min(self.wanted.k, len(theta) // 2)
        count = need + (len(theta) - need) // 2
        which: Which = "LM" if self.wanted.which == "BE" else self.wanted.which
        best = _Wanted(count, which).choose(theta)
        if self.wanted.which == "BE":
            best = np.union1d(best[: count - need], self.wanted.choose(theta))
        return np.sort(best)

    def _refined(self, X: Tensor) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Rayleigh-Ritz on fresh products A X, and the residuals ‖A x - θ x‖."""
        AX = torch.empty_like(X)
        for i in range(X.shape[1]):
            AX[:, i] = self.A @ X[:, i]
            progress.report("eigenpairs: matvecs", self.num_matvecs + i + 1, self._forecast())
        self.num_matvecs += X.shape[1]
        projected = self.A.inner(X, AX)
        theta, U = torch.linalg.eigh((projected + projected.T) / 2)
        order = torch.from_numpy(self._order(theta.cpu().numpy())).to(U.device)
        theta, U = theta[order], U[:, order]
        X, AX = X @ U.to(X.dtype), AX @ U.to(X.dtype)
        R = AX - X * theta.to(X.dtype)
        residuals = [float(self.A.inner(r[:, None], r[:, None]).sqrt()) for r in R.unbind(1)]
        return X, theta.cpu().numpy(), np.array(residuals)

    def _order(self, theta: np.ndarray) -> np.ndarray:
        """Indices that put the final values in the order of the wish, the most wanted first."""
        return _Wanted(len(theta), self.wanted.which).choose(theta).copy()

    def _allowed(self, theta: np.ndarray) -> np.ndarray:
        return np.maximum(STRICTER * self.tol * np.abs(theta), self._noise())

    def _noise(self) -> float:
        return NOISE * float(torch.finfo(self.A.dtype).eps) * self.scale

    def _certificate(self, theta: np.ndarray, residuals: np.ndarray, converged: bool) -> Certificate:
        run = self.first
        window = WINDOW * float(np.abs(theta).max(initial=0.0))
        lower, upper = -math.inf, math.inf
        if run is not None and run.alpha:
            lower = certificate.lower_bound(run, self.delta) - self._noise()
            upper = certificate.upper_bound(run, self.delta) + self._noise()
        complete = self.complete and converged
        if complete and self.copies:  # what is left lies inside the region, coupled by residuals
            slack = window + float(np.linalg.norm(residuals))
            low, high = self.wanted.region(theta)
            if math.isfinite(high):
                upper = min(upper, max(float(theta.max()), high) + slack)
            if math.isfinite(low):
                lower = max(lower, min(float(theta.min()), low) - slack)
        statement = _statement(self.wanted, complete, self.copies, window, self.delta, lower, upper)
        return Certificate(lower, upper, window, complete, self.copies, self.delta, statement)

    def _notes(self, converged: np.ndarray) -> tuple[str, ...]:
        notes = []
        if self.stopped == "interrupted":
            notes.append("interrupted: residuals are the recurrence's own estimates")
        if not converged.all():
            left = int((~converged).sum())
            notes.append(
                f"{left} of {len(converged)} pairs did not converge in {self.num_matvecs} matvecs; "
                "raise max_matvecs or tol"
            )
        elif not self.complete:
            notes.append("not certified: raise max_matvecs to exclude skipped eigenvalues")
        if self.crowd >= CROWD and self.wanted.k > 1:
            notes.append(
                f"{self.crowd} eigenvalues lie within a third of the outermost: there is no gap "
                "to separate a top list, and counts between thresholds are the better question"
            )
        if self.asymmetry > 1e-4:
            notes.append(f"products are noisy: u'Av and v'Au differ by {self.asymmetry:.1e} of A")
        return tuple(notes)


def _gaps(theta: np.ndarray, low: float, high: float, window: float) -> list[tuple[float, float]]:
    """The wanted region without windows around the Ritz values that lie in it."""
    gaps = []
    if math.isfinite(high):
        inside = np.sort(theta[theta >= high])
        edges = [high, *inside]
        gaps += [(a + window, b - window) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        gaps.append((edges[-1] + window, math.inf))
    if math.isfinite(low):
        inside = np.sort(theta[theta <= low])[::-1]
        edges = [low, *inside]
        gaps += [(b + window, a - window) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        gaps.append((-math.inf, edges[-1] - window))
    return gaps


def _statement(
    wanted: _Wanted,
    complete: bool,
    copies: bool,
    window: float,
    delta: float,
    lower: float,
    upper: float,
) -> str:
    bounds = f"all eigenvalues lie in [{lower:.4g}, {upper:.4g}] with probability {1 - delta:g}"
    if not complete:
        return f"not certified complete; {bounds}"
    extent = "copies included" if copies else f"up to copies within ± {window:.1e}"
    return (
        f"nothing was skipped among the {wanted.k} {_WORDS[wanted.which]} ({extent}, window "
        f"{window:.1e}); {bounds}"
    )


_WORDS = {"LA": "largest", "SA": "smallest", "LM": "largest in absolute value", "BE": "outermost"}


def _rows_that_fit(A: SymmetricOperator, k: int) -> int:
    row = A.n * torch.finfo(A.dtype).bits // 8
    return max(2 * k + 20, int(BASIS_SHARE * available_bytes(A.device) // row))


def _check_arguments(
    A: SymmetricOperator,
    k: int,
    which: str,
    tol: float,
    delta: float,
    start: Tensor | None,
    max_matvecs: int | None,
) -> None:
    if not isinstance(A, SymmetricOperator):
        msg = f"A is a {type(A).__name__}; wrap a matrix or a function with hs.as_operator."
        raise ValueError(msg)
    if not 1 <= k <= A.n:
        msg = f"k={k} eigenpairs of an operator of size n={A.n}; choose 1 <= k <= {A.n}."
        raise ValueError(msg)
    if which not in _WORDS:
        msg = f"which={which!r}; choose one of 'LA', 'SA', 'LM', 'BE' (as in scipy's eigsh)."
        raise ValueError(msg)
    if not 0 < tol < 1 or not 0 < delta < 1:
        msg = f"tol={tol} and delta={delta} must lie between 0 and 1; try tol=1e-3, delta=1e-3."
        raise ValueError(msg)
    if start is not None and (start.shape[0] != A.n or not float(start.norm()) > 0):
        msg = (
            f"start has shape {tuple(start.shape)} and norm {float(start.norm()):g}; give a "
            f"non-zero vector ({A.n},) or block ({A.n}, m)."
        )
        raise ValueError(msg)
    if max_matvecs is not None and max_matvecs < 1:
        msg = f"max_matvecs={max_matvecs} leaves nothing to compute with; give at least 2 k."
        raise ValueError(msg)

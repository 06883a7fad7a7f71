"""The rounds of one `eigsh`: run, lock, verify in the complement, refine."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hesscope import rounding
from hesscope.krylov import certificate
from hesscope.krylov.basis import Basis
from hesscope.krylov.lanczos import (
    Lanczos,
    Start,
    independent_seed,
    mixed_start,
    random_start,
)
from hesscope.krylov.wanted import Wanted, Which, gaps, statement
from hesscope.operator import SymmetricOperator, column_products, norm
from hesscope.results.spectrum import Certificate, Eigenpairs
from hesscope.system import interrupts, progress

WINDOW = 1e-3  # of the largest wanted |eigenvalue|: nearer ones are not told apart by certificates
STRICTER = (
    0.85  # times tol while running: what is locked later adds to the residuals of the earlier
)
HOPELESS = 0.5  # risk left by a round in the complement: a further round would not help either
CROWD = 8  # eigenvalues within a third of the outermost: asking for pairs is the wrong question


@dataclass
class Search:
    """The state of one `eigsh`: locked pairs, rounds of Lanczos, and the products spent."""

    A: SymmetricOperator
    wanted: Wanted
    tol: float
    verify: bool
    seed: int
    delta: float
    start: Tensor | None
    budget: int = 0  # products in all
    limit: int = 0  # products for Lanczos steps; the others are for residuals
    max_rows: int = 0
    num_matvecs: int = 0
    rounds: int = 0
    stopped: str = ""  # why the search ended early: "limit", "interrupted" or ""
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))
    estimates: np.ndarray = field(default_factory=lambda: np.zeros(0))
    asymmetry: float = 0.0
    crowd: int = 0
    fresh: bool = False  # whether residuals come from products of their own
    complete: bool = False
    copies: bool = False
    risks: list[float] = field(default_factory=list)  # of the rounds since the last lock
    first: Lanczos | None = None
    scale: float = 0.0

    def __post_init__(self) -> None:
        self.locked = Basis(self.A)
        warm = self.start
        self.first_seed = self.seed if warm is None else independent_seed(self.seed, warm)

    def run(self) -> None:
        """Rounds of Lanczos, each in the complement of what is locked, until nothing is new."""
        while not self.stopped:
            run = Lanczos(self.A, self._start(), self.locked, known_scale=self.scale)
            self._grow(run)
            self.first = self.first or run
            found = self._lock(run)
            self.risks = [] if found else [*self.risks, self._risk(run)]
            certified = not found and certificate.combined(self.risks) <= self._allowance()
            self.rounds += 1
            self.asymmetry = max(self.asymmetry, run.asymmetry)
            if len(self.values) == self.A.n:
                self.complete = self.copies = True
                return
            if self.stopped or len(self.values) < self.wanted.k:
                continue
            if not self.verify:
                self.complete = self._risk(self.first) <= self._first_allowance()
                return
            if certified or (not found and self.risks[-1] > HOPELESS):
                self.complete = self.copies = certified
                return

    def result(self) -> Eigenpairs:
        """The wanted pairs with fresh residuals, refined by Rayleigh-Ritz among themselves.

        Raises:
            KeyboardInterrupt: if it came before anything was found.
        """
        chosen = self.wanted.choose(self.values)
        if len(chosen) == 0:
            raise KeyboardInterrupt
        X = torch.stack([self.locked[int(i)] for i in chosen], 1)
        theta, residuals = self.values[chosen], self.estimates[chosen]
        if self.stopped != "interrupted" and self.num_matvecs + len(chosen) <= self.budget:
            try:
                X, theta, residuals = self._refined(X)
                self.fresh = True
            except KeyboardInterrupt:
                interrupts.note()
                self.stopped = "interrupted"
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

    def _count_product(self, _: int) -> None:
        self.num_matvecs += 1
        progress.report("eigenpairs: matvecs", self.num_matvecs, self._forecast())

    def _start(self) -> Start:
        if self.start is not None and self.rounds == 0:
            return mixed_start(self.A, self.start, self.first_seed)
        return random_start(self.A, self.locked, self.first_seed + self.rounds)

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
            interrupts.note()
            self.stopped = "interrupted"

    def _due(self, run: Lanczos) -> bool:
        """Looking at T costs m³: at every step while it is small, then every fourth."""
        return run.num_steps <= 64 or run.num_steps % 4 == 0

    def _forecast(self) -> int:
        usual = 2 * self.wanted.k + 15 + 15 * self.verify
        return min(self.budget, max(usual, self.num_matvecs + 5) + self.wanted.k)

    def _finished(self, run: Lanczos) -> bool:
        theta, _, residuals = run.ritz()
        if len(self.values) + len(theta) < self.wanted.k:
            return False
        new = self._new(theta)
        if not (residuals[new] <= self._allowed(theta[new])).all():
            return False
        if self.rounds == 0:
            return self.verify or run.restarted or self._risk(run) <= self._first_allowance()
        if len(new) > 0 or run.restarted:  # a restarted run proves no more than before
            return True
        return certificate.combined([*self.risks, self._risk(run)]) <= self._allowance()

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
        beyond = (theta[new] > high + margin) | (theta[new] < low - margin)
        fresh: np.ndarray = new[beyond]
        return fresh

    def _risk(self, run: Lanczos) -> float:
        """The risk that something in the wanted region, away from the run's values, is unseen."""
        if run.num_steps == 0 or len(self.values) + run.num_steps < self.wanted.k:
            return 1.0
        if run.scale == 0.0:  # every product vanished
            return 0.0
        theta, _, _ = run.ritz()
        enough = len(self.values) >= self.wanted.k
        known = self.values if enough else np.concatenate([self.values, theta])
        chosen = known[self.wanted.choose(known)]
        low, high = self.wanted.region(chosen)
        return certificate.risk(run, gaps(theta, low, high, self._window(chosen)))

    def _first_allowance(self) -> float:
        """The risk that a first run may leave: half of delta for k eigenvectors together.

        Is one of the k wanted values missed, then the start had too little of its eigenvector. The
        other half of delta is for the bounds on all eigenvalues, at either end a quarter.
        """
        return self.delta / (2 * self.wanted.k)

    def _allowance(self) -> float:
        """The risk that may be left in the complement: half of delta for all rounds together.

        There, at each end, only the outermost eigenvector counts. Most lists need one such round,
        so it gets most of the share: Σ 3/4ʳ = 1 over all rounds r.
        """
        ends = 2 if self.wanted.which in {"LM", "BE"} else 1
        r = max(self.rounds, 1)
        return self.delta / (2 * ends) * 3 / 4**r

    def _window(self, theta: np.ndarray) -> float:
        return max(WINDOW * float(np.abs(theta).max(initial=0.0)), self._noise())

    def _lock(self, run: Lanczos) -> bool:
        """Locks the wanted pairs of a run (all, if it broke down too early); whether any is new."""
        if run.num_steps == 0:
            return False
        theta, S, residuals = run.ritz()
        if self.rounds == 0:
            outermost = theta[self.wanted.choose(theta)[0]]
            self.crowd = int((np.abs(theta - outermost) <= abs(outermost) / 3).sum())
        short = run.exhausted and len(self.values) + len(theta) < self.wanted.k
        new = np.arange(len(theta)) if short else self._new(theta)
        if len(new) == 0:
            return False
        self.locked.extend(run.vectors(S[:, new]))
        self.values = np.concatenate([self.values, theta[new]])
        self.estimates = np.concatenate([self.estimates, residuals[new]])
        return True

    def _kept(self, run: Lanczos) -> np.ndarray:
        """Ritz vectors to keep at a thick restart: the wanted ones and half of the rest."""
        theta, _, _ = run.ritz()
        need = min(self.wanted.k, len(theta) // 2)
        count = need + (len(theta) - need) // 2
        which: Which = "LM" if self.wanted.which == "BE" else self.wanted.which
        best = Wanted(count, which).choose(theta)
        if self.wanted.which == "BE":
            best = np.union1d(best[: count - need], self.wanted.choose(theta))
        return np.sort(best)

    def _refined(self, X: Tensor) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Rayleigh-Ritz on fresh products A X, and the residuals ‖A x - θ x‖."""
        AX = column_products(self.A, X, self._count_product)
        projected = self.A.inner(X, AX)
        theta, U = torch.linalg.eigh((projected + projected.T) / 2)
        order = torch.from_numpy(self._order(theta.cpu().numpy())).to(U.device)
        theta, U = theta[order], U[:, order]
        X, AX = X @ U.to(X.dtype), AX @ U.to(X.dtype)
        R = AX - X * theta.to(X.dtype)
        return X, theta.cpu().numpy(), np.array([norm(self.A, r) for r in R.unbind(1)])

    def _order(self, theta: np.ndarray) -> np.ndarray:
        """Indices that put the final values in the order of the wish, the most wanted first."""
        return Wanted(len(theta), self.wanted.which).choose(theta).copy()

    def _allowed(self, theta: np.ndarray) -> np.ndarray:
        allowed: np.ndarray = np.maximum(STRICTER * self.tol * np.abs(theta), self._noise())
        return allowed

    def _noise(self) -> float:
        return rounding.product_noise(self.A.dtype, self.scale)

    def _certificate(
        self, theta: np.ndarray, residuals: np.ndarray, converged: bool
    ) -> Certificate:
        run, window = self.first, self._window(theta)
        lower, upper = -math.inf, math.inf
        if run is not None and run.alpha:
            adrift = self._noise() * math.sqrt(len(run.alpha))  # it adds up over the steps
            lower = certificate.lower_bound(run, self.delta / 4) - adrift
            upper = certificate.upper_bound(run, self.delta / 4) + adrift
        complete = self.complete and converged
        if complete and self.copies:  # what is left lies inside the region, coupled by residuals
            slack = (
                window + float(np.linalg.norm(residuals)) + float(np.linalg.norm(self.estimates))
            )
            low, high = self.wanted.region(theta)
            if math.isfinite(high):
                upper = min(upper, max(float(theta.max()), high) + slack)
            if math.isfinite(low):
                lower = max(lower, min(float(theta.min()), low) - slack)
        text = statement(self.wanted, complete, self.copies, window, self.delta, lower, upper)
        return Certificate(lower, upper, window, complete, self.copies, self.delta, text)

    def _notes(self, converged: np.ndarray) -> tuple[str, ...]:
        notes = []
        if not self.fresh:
            reason = self.stopped if self.stopped == "interrupted" else "max_matvecs is too small"
            notes.append(f"{reason}: residuals are the recurrence's own estimates")
        if len(converged) < self.wanted.k:
            notes.append(f"only {len(converged)} of {self.wanted.k} pairs were found")
        if not converged.all():
            left = int((~converged).sum())
            notes.append(
                f"{left} of {len(converged)} pairs did not converge in {self.num_matvecs} matvecs; "
                "raise max_matvecs or tol"
            )
        elif not self.complete:
            notes.append(
                "not certified: verify=True, or a larger max_matvecs or max_basis, excludes "
                "skipped eigenvalues"
            )
        if self.crowd >= CROWD and self.wanted.k > 1:
            notes.append(
                f"{self.crowd} eigenvalues lie within a third of the outermost: there is no gap "
                "to separate a top list, and counts between thresholds are the better question"
            )
        if self.asymmetry > 1e-4:
            notes.append(f"products are noisy: u'Av and v'Au differ by {self.asymmetry:.1e} of A")
        return tuple(notes)
